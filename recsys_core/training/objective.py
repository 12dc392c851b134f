"""The contract of what is trained: the model, its rows and batches, and a batch's loss."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Generic

import torch
from torch import Tensor, nn

from recsys_core.artifacts.ranking import Predicts
from recsys_core.distributed import World
from recsys_core.features import Engine
from recsys_core.loading.batch import B
from recsys_core.loading.collate import Source
from recsys_core.models.blocks.embeddings import Embeddings
from recsys_core.models.blocks.layout import Layout
from recsys_core.readers.base import Reader


class Objective(ABC, Generic[B]):
    """One thing to train, on one rank, from batches of one kind.

    Attributes:
        engine: the fitted features.
        reader: the training rows.
        feed: makes batches of them.
        model: on the CPU, its tables on the meta device.
        tables: the part of `model` that holds its embedding tables.
        dense: the parts that are called with what the tables give, and hold all other parameters.
        predicts: what the outputs of a ranker stand for; none where they are logits of probabilities.
    """

    engine: Engine
    reader: Reader
    feed: Source[B]
    model: nn.Module
    tables: Embeddings
    dense: tuple[nn.Module, ...]
    predicts: tuple[Predicts, ...] = ()

    @abstractmethod
    def loss(self, model: Callable[..., Any], batch: B, world: World) -> dict[str, Tensor]:
        """Return a batch's losses by name, scalars; what is minimised is the mean over its rows of their sum.

        Each is this rank's `weighted_sum` of its rows' losses. Nothing is divided here: `Trainer.step` does.
        """

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


def weighted_sum(losses_B: Tensor, weights_B: Tensor | None, global_rows: int, world: World) -> Tensor:
    """Return this rank's sum of its rows' losses, each times its weight over the mean weight of all ranks' rows.

    All ranks' sums divided by `global_rows` are the weighted mean: a row of weight 2 counts as two of weight 1. They
    are 0 where all weights are. Without weights no rank waits for another.
    """
    if weights_B is None:
        return losses_B.sum()
    total = world.sum(weights_B.sum()).clamp(min=torch.finfo(torch.float32).tiny)
    return (losses_B * weights_B).sum() * (global_rows / total)
