"""Optimizers of what is not a table: towers, crosses, heads. Every rank holds them whole and updates them alike."""

import fnmatch
from collections.abc import Mapping
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import nn

from recsys_core.artifacts import Frozen
from recsys_core.optim import schedules

Kind = Literal["sgd", "adagrad", "adam", "adamw", "adadelta", "rmsprop"]
_CLASSES: dict[Kind, type[torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adagrad": torch.optim.Adagrad,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "adadelta": torch.optim.Adadelta,
    "rmsprop": torch.optim.RMSprop,
}
_TAKES: dict[Kind, tuple[str, ...]] = {
    "sgd": ("momentum", "nesterov"),
    "adagrad": ("eps", "initial_accumulator_value"),
    "adam": ("eps", "betas"),
    "adamw": ("eps", "betas"),
    "adadelta": ("eps", "rho"),
    "rmsprop": ("eps", "alpha", "momentum"),
}


class Group(Frozen):
    """Parameters that learn in another way than the rest; what is null is as for the rest."""

    pattern: str = Field(description="glob on parameter names, such as `*.bias` or `query.*`; the first match counts")
    learning_rate: float | None = Field(default=None, ge=0, description="0 keeps them as they are")
    weight_decay: float | None = Field(default=None, ge=0)


class Config(Frozen):
    """YAML section `train.dense_optimizer`: of everything but the embedding tables."""

    kind: Kind = "adam"
    learning_rate: float = Field(default=0.001, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    schedule: schedules.Config = schedules.Constant()
    groups: tuple[Group, ...] = ()
    max_gradient_norm: float | None = Field(
        default=None, gt=0, description="the gradient over all dense parameters is scaled down to this length"
    )
    accumulate_batches: int = Field(
        default=1, ge=1, description="batches of one update; tables, fused into the backward pass, learn from each"
    )
    average_decay: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="evaluation and export take an exponential moving average of the weights, such as 0.999",
    )
    momentum: float | None = Field(default=None, ge=0, lt=1, description="of sgd and rmsprop; null: none")
    nesterov: bool | None = Field(default=None, description="of sgd")
    betas: tuple[float, float] | None = Field(default=None, description="of adam and adamw; null: 0.9, 0.999")
    eps: float | None = Field(default=None, gt=0, description="not of sgd; null: torch's default")
    rho: float | None = Field(default=None, ge=0, le=1, description="of adadelta; null: 0.9")
    alpha: float | None = Field(default=None, ge=0, lt=1, description="of rmsprop; null: 0.99")
    initial_accumulator_value: float | None = Field(default=None, ge=0, description="of adagrad; null: 0")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        options = {option for options in _TAKES.values() for option in options}
        given = {name for name in options if getattr(self, name) is not None}
        if foreign := sorted(given - {*_TAKES[self.kind]}):
            takes = ", ".join(_TAKES[self.kind])
            raise ValueError(f"{', '.join(foreign)}: {self.kind} has no such option; it takes {takes}")
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov: needs a momentum")
        if self.betas and not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas: {list(self.betas)} are not in [0, 1)")
        return self


def build(config: Config, parameters: Mapping[str, nn.Parameter]) -> torch.optim.Optimizer:
    """Return the optimizer of `parameters` (by name), in groups.

    Raises:
        ValueError: a group's pattern matches no parameter that no group before it has; names them all.
    """
    left = dict(parameters)
    groups: list[dict[str, Any]] = []
    for number, group in enumerate(config.groups):
        names = fnmatch.filter(left, group.pattern)
        if not names:
            taken = " that an earlier group has not" if fnmatch.filter(parameters, group.pattern) else ""
            raise ValueError(
                f"train.dense_optimizer.groups[{number}].pattern: {group.pattern!r} matches no parameter{taken}; there "
                f"are {', '.join(parameters)}"
            )
        own = {"lr": group.learning_rate, "weight_decay": group.weight_decay}
        groups.append({"params": [left.pop(name) for name in names], **{k: v for k, v in own.items() if v is not None}})
    if left or not groups:
        groups.append({"params": [*left.values()]})
    options = {name: value for name in _TAKES[config.kind] if (value := getattr(config, name)) is not None}
    # The arguments differ by class, which `_TAKES` knows and a type checker does not.
    kind: Any = _CLASSES[config.kind]
    return kind(groups, lr=config.learning_rate, weight_decay=config.weight_decay, **options)
