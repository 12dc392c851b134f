"""The contract of what is trained: the model, its rows and batches, and a batch's loss."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from recsys_core.distributed import World
from recsys_core.features import Engine
from recsys_core.loading.collate import Source
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
    def loss(self, model: Callable[..., Any], batch: Any, world: World) -> Tensor:
        """Return this rank's share of a batch's loss; all ranks' shares add up to the loss times `global_rows`."""

    @abstractmethod
    def layout(self, engine: Engine | None = None) -> Layout:
        """Return the layout of the dense weights, or what it would be with the features of another engine.

        Raises:
            ValueError: the model does not take these features.
        """

    def figures(self, world: World) -> dict[str, float | None]:  # noqa: ARG002
        """Return more figures of the batches since the last call, None where one is not defined; all ranks call it."""
        return {}

    def validate(self, model: nn.Module, world: World) -> dict[str, float]:  # noqa: ARG002
        """Measure `model` on rows that are not trained on; every rank gets the same figures.

        Raises:
            ValueError: this objective has no such rows.
        """
        raise ValueError(
            "train.evaluate_every_steps, train.evaluate_every_epochs: retrieval has no rows to validate on, it is "
            "measured on the next day when training is done; leave them out"
        )
