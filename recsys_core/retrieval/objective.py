"""What a retrieval training minimises: a loss of the two towers' vectors, of positives among negatives."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from recsys_core import losses, models, readers
from recsys_core.artifacts import ComponentConfig, TrainingData
from recsys_core.distributed import World
from recsys_core.features import Engine
from recsys_core.loading.batch import Batch
from recsys_core.losses.base import RetrievalLoss
from recsys_core.models.base import RetrievalModel, SequenceModel
from recsys_core.models.blocks.layout import Layout
from recsys_core.retrieval.feed import Feed, ItemTable, SequenceFeed
from recsys_core.training.objective import Objective


class Retrieval(Objective[Batch]):
    """Queries find their items among negatives."""

    def __init__(
        self,
        model: ComponentConfig,
        sampler: ComponentConfig | None,
        loss: ComponentConfig,
        data: TrainingData,
        *,
        batch_size: int,
        seed: int,
        world: World,
    ) -> None:
        """Read the item table of `data`; `model`, `sampler` and `loss` are configs of components."""
        self.engine = Engine.load(data.engine)
        items = ItemTable(data.items, self.engine)
        contract, draws = RetrievalModel, {"seed": seed, "rank": world.rank}
        self._targets_per_row = 1.0
        if data.num_targets is None or data.most_targets is None:
            feed = Feed(self.engine, items, sampler, **draws)
        else:
            contract = SequenceModel
            self._targets_per_row = data.num_targets / max(data.num_rows, 1)
            feed = SequenceFeed(self.engine, items, sampler, **draws, most_targets=data.most_targets)
        self.feed, self._num_negatives = feed, feed.num_negatives
        self.reader = readers.opened(data.examples)
        torch.manual_seed(seed)
        towers = models.build(model, self.engine, contract, tables_device="meta")
        self._towers = towers
        self.model, self.tables, self.dense = towers, towers.tables, (towers.query, towers.item)
        self._loss, self._model = losses.build(loss, RetrievalLoss), model
        self._loss.num_items = len(items.ids)
        num_queries = batch_size * self._targets_per_row
        expected = feed.log_expected(num_queries, in_batch=self._loss.in_batch_negatives)
        self._log_expected = expected.to(world.device)

    def layout(self, engine: Engine | None = None) -> Layout:
        """See `Objective.layout`."""
        if engine is None:
            return self._towers.layout()
        return models.build(self._model, engine, RetrievalModel, tables_device="meta").layout()

    def loss(self, model: Callable[..., Any], batch: Batch, world: World) -> dict[str, Tensor]:  # noqa: ARG002
        """See `Objective.loss`.

        A row that is a whole sequence has the sum of its targets' losses over the mean number of targets, so that the
        mean over an epoch's rows is that over all targets.
        """
        inputs, rows_M = (batch.sparse, batch.query_dense_BF, batch.item_dense_MF), batch.item_rows_M
        if (targets := batch.targets) is None:
            query_BD, item_MD = model(*inputs)
        else:
            query_BD, item_MD = model(*inputs, targets.row_T, targets.known_T)
            first = len(rows_M) - self._num_negatives
            item_MD = torch.cat([item_MD.index_select(0, targets.item_T), item_MD[first:]])
            rows_M = torch.cat([rows_M[targets.item_T], rows_M[first:]])
        total = self._loss.total(query_BD, item_MD, rows_M, self._log_expected[rows_M])
        return {"loss": total / self._targets_per_row}
