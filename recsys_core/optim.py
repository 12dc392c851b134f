"""Optimizers: sparse ones fused into the embedding's backward pass, dense ones for the towers."""

from collections.abc import Iterable
from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn
from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward
from torchrec.optim.optimizers import SGD, Adagrad, Adam
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad

from recsys_core.artifacts import Frozen

_SPARSE: dict[str, type[torch.optim.Optimizer]] = {
    "sgd": SGD,
    "adagrad": Adagrad,
    "rowwise_adagrad": RowWiseAdagrad,
    "adam": Adam,
}


class SparseConfig(Frozen):
    """YAML section `train.sparse_optimizer`: of the embedding tables."""

    kind: Literal["sgd", "adagrad", "rowwise_adagrad", "adam"] = "rowwise_adagrad"
    learning_rate: float = Field(default=0.05, gt=0)


class DenseConfig(Frozen):
    """YAML section `train.dense_optimizer`: of the towers."""

    kind: Literal["sgd", "adam", "adamw"] = "adam"
    learning_rate: float = Field(default=0.001, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)


def fuse(config: SparseConfig, tables: nn.Module, device: torch.device) -> None:
    """Let each table's backward pass apply its own update; call before the tables are sharded.

    Raises:
        ValueError: there is no fused kernel of this kind for `device`.
    """
    if device.type == "cpu" and config.kind == "adam":
        raise ValueError(
            "train.sparse_optimizer.kind: adam has no fused kernel for CPUs; use rowwise_adagrad, adagrad or sgd"
        )
    apply_optimizer_in_backward(_SPARSE[config.kind], tables.parameters(), {"lr": config.learning_rate})


def dense(config: DenseConfig, parameters: Iterable[Any]) -> torch.optim.Optimizer:
    """Return the towers' optimizer."""
    kinds = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    return kinds[config.kind](list(parameters), lr=config.learning_rate, weight_decay=config.weight_decay)
