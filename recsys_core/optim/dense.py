"""Optimizers of what is not a table: towers, crosses, heads. Every rank holds them whole and updates them alike."""

import fnmatch
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from recsys_core.sections.optim import DENSE_TAKES, DenseConfig, DenseKind

_CLASSES: dict[DenseKind, type[torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adagrad": torch.optim.Adagrad,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "adadelta": torch.optim.Adadelta,
    "rmsprop": torch.optim.RMSprop,
}


def build(config: DenseConfig, parameters: Mapping[str, nn.Parameter]) -> torch.optim.Optimizer:
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
    options = {name: value for name in DENSE_TAKES[config.kind] if (value := getattr(config, name)) is not None}
    # The arguments differ by class, which `DENSE_TAKES` knows and a type checker does not.
    kind: Any = _CLASSES[config.kind]
    return kind(groups, lr=config.learning_rate, weight_decay=config.weight_decay, **options)
