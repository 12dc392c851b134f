"""The evaluation stage: loss and recall of a checkpoint among sampled negatives, on the day after the training's.

These are the training's own figures on unseen rows, cheap and comparable along a day's training; what users get is
measured by `hit_rate`, over the whole item table.
"""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor, nn

from recsys_core import artifacts, distributed, losses, readers
from recsys_core.artifacts import TrainingData
from recsys_core.distributed import World
from recsys_core.exported import modules
from recsys_core.exported.as_model import TowersAsModel
from recsys_core.features import Engine
from recsys_core.loading.batch import moved
from recsys_core.loading.rank_batches import RankBatches
from recsys_core.losses.base import RetrievalLoss
from recsys_core.models.base import RetrievalModel
from recsys_core.progress import Event, Sink
from recsys_core.readers import memory
from recsys_core.retrieval.feed import Feed, ItemTable
from recsys_core.retrieval.requests import EvaluateConfig as Config
from recsys_core.retrieval.requests import EvaluateRequest as Request
from recsys_core.training import restored

__all__ = ["Config", "Request", "run"]

_BLOCK_NUMBERS = 1 << 24


def run(request: Request, sink: Sink) -> artifacts.HeldOut:
    """Measure every pair of the ground truth exactly once, on all ranks."""
    # An exported module is on the CPU.
    with distributed.world("cpu" if request.exported else request.sharding.device) as world:
        engine = Engine.load(_engine(request))
        items = ItemTable(request.data.items, engine)
        model = _model(request, engine, world)
        feed = Feed(engine, items, request.sampler, seed=request.seed, rank=world.rank)
        totals = world.sum(sums(request, world, feed, model, _pairs(request.data, items), sink))
        num_pairs, loss, *hits = totals.tolist()
        recall = {str(k): hit / max(num_pairs, 1) for k, hit in zip(request.config.ks, hits, strict=True)}
        if world.is_first:
            with artifacts.pending(request.output) as aside:
                aside.commit(
                    artifacts.HeldOut,
                    request,
                    num_rows=round(num_pairs),
                    loss=loss / max(num_pairs, 1),
                    sampled_recall=recall,
                )
        world.barrier()
        return artifacts.HeldOut.load(request.output)


def _engine(request: Request) -> Path:
    if request.exported is not None:
        return request.exported.engine
    return request.engine or (request.features or request.data).engine


def _model(request: Request, engine: Engine, world: World) -> nn.Module:
    """Return the towers that are evaluated, as exported or in training form."""
    if (exported := request.exported) is not None:
        return TowersAsModel(modules.load(exported.query), modules.load(exported.item), engine)
    assert request.checkpoint is not None, "one of both is there"
    return restored.sharded(
        request.model, engine, RetrievalModel, request.checkpoint, request.sharding, world, request.seed
    )


def _pairs(data: TrainingData, items: ItemTable) -> pa.Table:
    """Return a row per (query, ground-truth item), without items that are not in the table: no model can score them."""
    queries = readers.read_all(readers.opened(data.ground_truth))
    found = queries.column("gt_items").combine_chunks()
    flat = pa.chunked_array([pc.list_flatten(found)])
    known = items.rows_of(flat) >= 0
    rows = pc.list_parent_indices(found).filter(pa.array(known))
    return (
        queries.drop_columns(["gt_items", "seen_items"])
        .take(rows)
        .append_column("item_id", flat.filter(pa.array(known)))
    )


def sums(
    request: Request, world: World, feed: Feed, model: torch.nn.Module, pairs: pa.Table, sink: Sink
) -> torch.Tensor:
    """Return the [pairs, loss, hits at each K] sums of this rank's share of `pairs` of query and item, float64."""
    reader = memory.Reader(pairs)
    size = request.config.batch_size
    shard = RankBatches.in_order(reader, feed.columns, batch_size=size, rank=world.rank, num_ranks=world.num_ranks)
    loss = losses.build(request.loss, RetrievalLoss)
    loss.num_items = request.data.num_items
    log_expected = feed.log_expected(size, in_batch=False).to(world.device)
    totals = torch.zeros(2 + len(request.config.ks), dtype=torch.float64, device=world.device)
    done = 0
    with torch.no_grad():
        for prepared, _ in feed.batches(shard, epoch=0, step=0, pins=world.device.type == "cuda"):
            batch = moved(prepared, world.device)
            query_BD, item_MD = model(batch.sparse, batch.query_dense_BF, batch.item_dense_MF)
            first = len(query_BD)
            # All items may be negatives: a block of logits at a time.
            for rows in torch.arange(first, device=world.device).split(max(1, _BLOCK_NUMBERS // feed.num_negatives)):
                own_M = torch.cat([rows, torch.arange(first, len(item_MD), device=world.device)])
                asked = query_BD[rows], item_MD[own_M], batch.item_rows_M[own_M]
                totals += _counted(loss, *asked, log_expected, request.config.ks)
            done += batch.global_rows
            if world.is_first:
                sink(Event(stage="evaluate", done=done, total=pairs.num_rows, unit="pairs"))
    return totals


def _counted(
    loss: RetrievalLoss, query_BD: Tensor, item_MD: Tensor, rows_M: Tensor, log_expected: Tensor, ks: Sequence[int]
) -> Tensor:
    """Return the [pairs, loss, hits at each K] sums of the pairs of B queries and the first B items, float64."""
    no_correction_M = torch.zeros(len(item_MD), device=item_MD.device)
    positive_B, negative_BN = loss.logits(query_BD, item_MD, rows_M, no_correction_M, in_batch=False)
    rank_B = (negative_BN >= positive_B[:, None]).sum(dim=1)
    if loss.logq_correction:
        correction_M = log_expected[rows_M]
        positive_B = positive_B - correction_M[: len(positive_B)]
        negative_BN -= correction_M[len(positive_B) :]
    loss_B = loss.of_logits(positive_B, negative_BN)
    hits_BK = torch.stack([rank_B < k for k in ks], dim=1)
    return torch.cat([torch.ones_like(loss_B)[:, None], loss_B[:, None], hits_BK], dim=1).double().sum(dim=0)
