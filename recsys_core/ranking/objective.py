"""Labelled rows: a loss of their logits, and exact metrics over rows that are not trained on. Legend: B examples."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import xxhash
from torch import Tensor, nn

from recsys_core import losses, models
from recsys_core.artifacts import ComponentConfig, LabelledData
from recsys_core.columns import ids
from recsys_core.distributed import World
from recsys_core.features import Engine
from recsys_core.loading.batch import LabelledBatch, moved
from recsys_core.loading.epoch_order import EpochOrder
from recsys_core.loading.prefetch import half_of_the_cores, prefetch
from recsys_core.loading.rank_batches import RankBatches, Rows
from recsys_core.losses.base import RankingLoss
from recsys_core.metrics.ranking import Scored
from recsys_core.metrics.streaming import Histogram, auc_of_counts
from recsys_core.models.base import RankingModel
from recsys_core.models.blocks.layout import Layout
from recsys_core.ranking import Config, opened
from recsys_core.ranking.feed import LabelledFeed
from recsys_core.readers.base import Reader
from recsys_core.training.objective import Objective, weighted_sum

# What stands for a null among whole numbers: the one that no upstream system counts up to.
_NO_GROUP = -(1 << 63)


class Ranking(Objective[LabelledBatch]):
    """Predict the label of a row."""

    def __init__(
        self,
        config: Config,
        model: ComponentConfig,
        loss: ComponentConfig,
        data: LabelledData,
        *,
        batch_size: int,
        seed: int,
    ) -> None:
        """`model` and `loss` are configs of components; `batch_size` is that of validation, per rank."""
        self.engine = Engine.load(data.engine)
        self.feed = LabelledFeed(self.engine, label=config.label, weight=config.sample_weight)
        self.reader = opened(data, "train")
        torch.manual_seed(seed)
        ranker = models.build(model, self.engine, RankingModel, tables_device="meta")
        self._ranker = ranker
        self.model, self.tables, self.dense = ranker, ranker.tables, (ranker.head,)
        self._loss = losses.build(loss, RankingLoss)
        self._seen = Histogram()
        self._config, self._batch_size, self._model = config, batch_size, model
        self._valid = opened(data, "valid") if data.has("valid") else None

    def layout(self, engine: Engine | None = None) -> Layout:
        """See `Objective.layout`."""
        if engine is None:
            return self._ranker.layout()
        return models.build(self._model, engine, RankingModel, tables_device="meta").layout()

    def loss(self, model: Callable[..., Any], batch: LabelledBatch, world: World) -> dict[str, Tensor]:
        """See `Objective.loss`."""
        logits_B = model(batch.sparse, batch.dense_BF, batch.numbers)
        losses_B = self._loss(logits_B, batch.labels_B)
        self._seen.add(logits_B, batch.labels_B, batch.weights_B)
        return {"loss": weighted_sum(losses_B, batch.weights_B, batch.global_rows, world)}

    def figures(self, world: World) -> dict[str, float | None]:
        """See `Objective.figures`: the AUC of the rows as they were scored before the model learned from them."""
        return {"auc": auc_of_counts(world.sum(self._seen.take(world.device)).cpu().numpy())}

    def validate(self, model: nn.Module, world: World) -> dict[str, float]:
        """See `Objective.validate`: the metrics of the split `valid`."""
        if self._valid is None:
            raise ValueError(
                "train.evaluate_every_steps, train.evaluate_every_epochs: the data has no split `valid`; give it one, "
                "or leave them out"
            )
        rows = gathered(model, self.engine, self._config, self._valid, world, batch_size=self._batch_size)
        return rows.metrics().figures()


def gathered(
    model: nn.Module, engine: Engine, config: Config, reader: Reader, world: World, *, batch_size: int
) -> Scored:
    """Return all of `reader`'s rows, scored, each once, on every rank."""
    parts = [part for part, _ in scored(model, engine, config, reader, world, batch_size=batch_size)]
    return Scored.joined(world.gather(Scored.joined(parts)))


def scored(
    model: nn.Module, engine: Engine, config: Config, reader: Reader, world: World, *, batch_size: int
) -> Iterator[tuple[Scored, int]]:
    """Score this rank's share of the rows; yield each batch with how many rows all ranks have scored by it."""
    feed = LabelledFeed(engine, label=config.label, weight=config.sample_weight)
    columns = list(dict.fromkeys([*feed.columns, *filter(None, [config.group])]))
    order = EpochOrder(reader.block_rows, seed=0, epoch=0, shuffle_rows=0)
    shard = RankBatches(reader, order, columns, batch_size=batch_size, rank=world.rank, num_ranks=world.num_ranks)
    training, done = model.training, 0

    def prepare(rows: Rows) -> tuple[LabelledBatch, np.ndarray | None]:
        return feed.batch(rows), _group_numbers(rows, config.group) if config.group else None

    model.eval()
    with torch.no_grad():
        for prepared, groups in prefetch(iter(shard), prepare, num_threads=half_of_the_cores()):
            batch = moved(prepared, world.device)
            logits = model(batch.sparse, batch.dense_BF, batch.numbers).double().cpu().numpy()
            weights = np.ones(len(logits)) if batch.weights_B is None else batch.weights_B.double().cpu().numpy()
            done += batch.global_rows
            yield Scored(logits, batch.labels_B.cpu().numpy() > 0.5, weights, groups), done
    model.train(training)


def _group_numbers(rows: Rows, group: str) -> np.ndarray:
    """Return a number for each row's group, the same on every rank: the value itself, or the hash of its text."""
    column = ids(rows.table.column(group).combine_chunks())
    if pa.types.is_int64(column.type):
        return column.fill_null(_NO_GROUP).to_numpy()
    distinct = column.dictionary_encode()
    texts = [str(value).encode() for value in distinct.dictionary.to_pylist()]
    # A null is no user, but its rows are one group all the same: those of unknown users.
    hashes = np.array([*map(xxhash.xxh3_64_intdigest, texts), 0], dtype=np.uint64).view(np.int64)
    return hashes[distinct.indices.fill_null(len(texts)).to_numpy(zero_copy_only=False)]
