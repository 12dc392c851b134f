"""Batch prediction: every item and every query of a day through the exported towers, on all ranks.

The scripted towers are used, not the checkpoint: what is measured, indexed and released is one and the same.
"""

import shutil
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import torch

from recsys_core import artifacts, distributed, output, placeholders, readers
from recsys_core.artifacts import ExportedModel, Pending
from recsys_core.distributed import World
from recsys_core.exported.inputs import MODEL, tower_inputs
from recsys_core.features import Engine, Side, counting_from, out_of_range_metrics
from recsys_core.loading.epoch_order import EpochOrder
from recsys_core.loading.prefetch import prefetch
from recsys_core.loading.rank_batches import RankBatches
from recsys_core.progress import Event, Sink
from recsys_core.retrieval.requests import EmbedConfig as Config
from recsys_core.retrieval.requests import EmbedRequest as Request
from recsys_core.writers.parquet import Writer

__all__ = ["Config", "Request", "run"]

_FOLDERS: dict[Side, str] = {"item": "items", "query": "queries"}


def run(request: Request, sink: Sink) -> artifacts.Embeddings:
    """Embed the item table and the ground truth's queries; rows keep their order over the parts.

    Raises:
        ValueError: a column that the model's features need is not in the data (a champion of other features).
    """
    with distributed.world("cpu") as world:
        work = Pending(request.output)
        if world.is_first:
            # A killed attempt may have had more ranks, and so more parts.
            shutil.rmtree(work.path, ignore_errors=True)
            work.path.mkdir(parents=True)
        world.barrier()
        engine = Engine.load(request.model.engine)
        folders = {"item": request.data.items, "query": request.data.ground_truth}
        kept = {"item": ["item_id"], "query": ["user_id", "gt_items", "seen_items"]}
        total = request.data.num_items + request.data.num_queries
        counts: dict[str, int] = {}
        for side, out in _FOLDERS.items():
            reader = readers.opened(folders[side])
            tower = torch.jit.load(str(getattr(request.model, side) / MODEL))
            shard = _shard(reader, engine, side, kept[side], request.config.batch_size, world)
            already = sum(counts.values())
            written = 0
            with Writer(work.path / out, world.rank, _schema(reader.schema, kept[side], request.model)) as writer:
                for table in prefetch(_embedded(shard, engine, side, tower, kept[side])):
                    writer.write(table)
                    written += table.num_rows * world.num_ranks
                    if world.is_first:
                        done = min(already + written, total)
                        sink(Event(stage=request.stage, done=done, total=total))
            counts[side] = sum(world.gather(writer.num_rows))
            if counts[side] != reader.num_rows:
                raise RuntimeError(f"{out}: {counts[side]} vectors written for {reader.num_rows} rows")
        _emit_left_out(engine, world, Event(stage=request.stage, done=total, total=total), sink)
        # The live model's vectors, which only serve to compare, go nowhere else.
        if request.stage == "embed":
            wanted = {"items": request.config.items_output, "queries": request.config.queries_output}
            for out, path in wanted.items():
                if path is not None:
                    part = work.path / out / f"part-{world.rank:05d}.parquet"
                    output.write(placeholders.fill(path, request.data.day), output.groups(part), world)
        if world.is_first:
            work.commit(
                artifacts.Embeddings,
                request,
                num_rows=sum(counts.values()),
                embedding_dim=request.model.embedding_dim,
                num_items=counts["item"],
                num_queries=counts["query"],
                model_digest=request.model.digest,
            )
        world.barrier()
        return artifacts.Embeddings.load(request.output)


def _emit_left_out(engine: Engine, world: World, event: Event, sink: Sink) -> None:
    outside = out_of_range_metrics(world.gather(engine.out_of_range()))
    if world.is_first and outside:
        sink(event.model_copy(update={"metrics": outside}))


def _shard(
    reader: readers.Reader, engine: Engine, side: Side, kept: list[str], batch_size: int, world: World
) -> RankBatches:
    needed = engine.columns(side)
    missing = [column for column in needed if column not in reader.schema.names]
    if missing:
        raise ValueError(
            f"the model's {side} features need column(s) {', '.join(missing)}, which this day's data does not have "
            f"(it has {', '.join(reader.schema.names)}); name them in features.{side}, or release a model without them"
        )
    order = EpochOrder(reader.block_rows, seed=0, epoch=0, shuffle_rows=0)
    columns = list(dict.fromkeys([*kept, *needed]))
    return RankBatches(reader, order, columns, batch_size=batch_size, rank=world.rank, num_ranks=world.num_ranks)


def _embedded(
    shard: RankBatches, engine: Engine, side: Side, tower: torch.jit.ScriptModule, kept: list[str]
) -> Iterator[pa.Table]:
    for rows in shard:
        with torch.no_grad(), counting_from(rows.number):
            vectors: np.ndarray = tower(tower_inputs(engine.transform(rows.batch, side))).numpy()
        flat = pa.array(np.ascontiguousarray(vectors, np.float32).reshape(-1))
        embedding = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
        yield rows.table.select(kept).append_column("embedding", embedding)


def _schema(schema: pa.Schema, kept: list[str], model: ExportedModel) -> pa.Schema:
    vector = pa.field("embedding", pa.list_(pa.float32(), model.embedding_dim))
    return pa.schema([*(schema.field(name) for name in kept), vector])
