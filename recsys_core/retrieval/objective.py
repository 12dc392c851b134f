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
from recsys_core.models.base import RetrievalModel
from recsys_core.models.blocks.layout import Layout
from recsys_core.retrieval.feed import Feed, ItemTable
from recsys_core.training.objective import Objective


class Retrieval(Objective[Batch]):
    """Queries find their items among negatives."""

    def __init__(
        self,
        model: ComponentConfig,
        sampler: ComponentConfig,
        loss: ComponentConfig,
        data: TrainingData,
        *,
        batch_size: int,
        seed: int,
        world: World,
    ) -> None:
        """Read the item table of `data`; `model`, `sampler` and `loss` are configs of components."""
        self.engine = Engine.load(data.engine)
        feed = Feed(self.engine, ItemTable(data.items, self.engine), sampler, seed=seed, rank=world.rank)
        self.feed = feed
        self.reader = readers.opened(data.examples)
        torch.manual_seed(seed)
        towers = models.build(model, self.engine, RetrievalModel, tables_device="meta")
        self._towers = towers
        self.model, self.tables, self.dense = towers, towers.tables, (towers.query, towers.item)
        self._loss, self._model = losses.build(loss, RetrievalLoss), model
        expected = feed.log_expected(batch_size, in_batch=self._loss.in_batch_negatives)
        self._log_expected = expected.to(world.device)

    def layout(self, engine: Engine | None = None) -> Layout:
        """See `Objective.layout`."""
        if engine is None:
            return self._towers.layout()
        return models.build(self._model, engine, RetrievalModel, tables_device="meta").layout()

    def loss(self, model: Callable[..., Any], batch: Batch, world: World) -> dict[str, Tensor]:  # noqa: ARG002
        """See `Objective.loss`."""
        query_BD, item_MD = model(batch.sparse, batch.query_dense_BF, batch.item_dense_MF)
        log_expected_M = self._log_expected[batch.item_rows_M]
        return {"loss": self._loss.total(query_BD, item_MD, batch.item_rows_M, log_expected_M)}
