"""What a training minimises: the model, the rows and how they become batches, and a batch's loss.

`train` knows the loop, checkpoints and optimizers; an objective knows what is trained. Legend: B queries, M items.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from recsys_core import models, readers
from recsys_core.artifacts import Frozen, TrainingData
from recsys_core.batch import Batch
from recsys_core.distributed import World
from recsys_core.features import Engine
from recsys_core.feed import Feed, ItemTable, Source
from recsys_core.losses import sampled_softmax
from recsys_core.models.base import RetrievalModel
from recsys_core.models.blocks.embeddings import Embeddings
from recsys_core.models.blocks.layout import Layout
from recsys_core.readers.base import Reader


class Objective(ABC):
    """One thing to train, on one rank.

    Attributes:
        engine: the fitted features.
        reader: the training rows.
        feed: makes batches of them; a batch has `sparse`, `each` and `global_rows`.
        model: on the CPU, its tables on the meta device.
        tables: the part of `model` that holds its embedding tables.
        dense: the parts that are called with what the tables give, and hold all other parameters.
    """

    engine: Engine
    reader: Reader
    feed: Source
    model: nn.Module
    tables: Embeddings
    dense: tuple[nn.Module, ...]

    @abstractmethod
    def loss(self, model: Callable[..., Any], batch: Any, here: World) -> Tensor:
        """Return this rank's share of a batch's loss; all ranks' shares add up to the loss times `global_rows`."""

    @abstractmethod
    def layout(self, engine: Engine | None = None) -> Layout:
        """Return the layout of the dense weights, or what it would be with the features of another engine.

        Raises:
            ValueError: the model does not take these features.
        """

    def figures(self, here: World) -> dict[str, float | None]:  # noqa: ARG002
        """Return more figures of the batches since the last call, None where one is not defined; all ranks call it."""
        return {}

    def validate(self, model: nn.Module, here: World) -> dict[str, float]:  # noqa: ARG002
        """Measure `model` on rows that are not trained on; every rank gets the same figures.

        Raises:
            ValueError: this objective has no such rows.
        """
        raise ValueError(
            "train.evaluate_every_steps, train.evaluate_every_epochs: retrieval has no rows to validate on, it is "
            "measured on the next day when training is done; leave them out"
        )


class Retrieval(Objective):
    """Queries find their items among negatives: sampled softmax."""

    def __init__(
        self,
        model: Frozen,
        sampler: Frozen,
        loss: sampled_softmax.Config,
        data: TrainingData,
        *,
        batch_size: int,
        seed: int,
        here: World,
    ) -> None:
        """Read the item table of `data`; `model` and `sampler` are configs of components."""
        self.engine = Engine.load(data.engine)
        feed = Feed(self.engine, ItemTable(data.items, self.engine), sampler, seed=seed, rank=here.rank)
        self.feed = feed
        self.reader = readers.opened(data.examples)
        torch.manual_seed(seed)
        towers = models.build(model, self.engine, RetrievalModel, tables_device="meta")
        self._towers = towers
        self.model, self.tables, self.dense = towers, towers.tables, (towers.query, towers.item)
        self._loss, self._model = sampled_softmax.Loss(loss), model
        self._log_expected = feed.log_expected(batch_size, in_batch=loss.in_batch_negatives).to(here.device)

    def layout(self, engine: Engine | None = None) -> Layout:
        """See `Objective.layout`."""
        if engine is None:
            return self._towers.layout()
        return models.build(self._model, engine, RetrievalModel, tables_device="meta").layout()

    def loss(self, model: Callable[..., Any], batch: Batch, here: World) -> Tensor:  # noqa: ARG002
        """See `Objective.loss`."""
        query_BD, item_MD = model(batch.sparse, batch.query_dense_BF, batch.item_dense_MF)
        return self._loss.total(query_BD, item_MD, batch.item_rows_M, self._log_expected[batch.item_rows_M])
