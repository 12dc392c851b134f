"""What a search varies: keys of a config, each with the values that it may have."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, RootModel, model_validator

from recsys_core import config as configs
from recsys_core.artifacts import Frozen
from recsys_core.config import RankingConfig, RunConfig, parsing, reading
from recsys_core.metrics import ranking as ranking_metrics


class Float(Frozen):
    """Numbers from `low` to `high`: drawn evenly, or evenly in their logarithms, or multiples of `step` from `low`."""

    kind: Literal["float"]
    low: float
    high: float
    log: bool = False
    step: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _is_range(self) -> Self:
        _check_range(self.low, self.high, log=self.log, step=self.step)
        return self


class Int(Frozen):
    """Whole numbers from `low` to `high`, likewise."""

    kind: Literal["int"]
    low: int
    high: int
    log: bool = False
    step: int | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _is_range(self) -> Self:
        _check_range(self.low, self.high, log=self.log, step=self.step)
        return self


class Choice(Frozen):
    """One of `values`, which may be lists and sections too."""

    kind: Literal["choice"]
    values: tuple[Any, ...] = Field(min_length=2)


Values = Annotated[Float | Int | Choice, Field(discriminator="kind")]


class Space(RootModel[dict[str, Values]]):
    """By key of the config, such as `train.dense_optimizer.learning_rate`, what it may be."""

    @model_validator(mode="after")
    def _has_keys(self) -> Self:
        if not self.root:
            raise ValueError("names no key of the config that is to be varied")
        return self


def read(path: Path) -> Space:
    """Read the YAML file of a space.

    Raises:
        ValueError: it is none; one line for each mistake.
    """
    return parsing.validate(Space, reading.read(path), path, {})


def metric_of(config: RunConfig | RankingConfig) -> tuple[str, str]:
    """Return what a search of this config is by, and whether it is to be maximized or minimized.

    Raises:
        ValueError: nothing is measured while or after training that is not the test's.
    """
    if isinstance(config, RunConfig):
        return f"{config.gate.metric}@{config.gate.k}", "maximize"
    if config.is_daily:
        raise ValueError("a search trains a ranking model on splits, by their validation rows; name a config of splits")
    if not config.train.evaluates:
        raise ValueError("train.evaluate_every_steps: a search is by the split valid; set how often it is measured")
    metric = config.train.best_metric
    return metric, "maximize" if ranking_metrics.direction(metric) == "up" else "minimize"


def change(key: str, value: Any) -> str:
    """Return the change to a config that gives `key` this value; see `overrides`."""
    return json.dumps({key: value})


def check(config: Path, changes: Sequence[str], space: Space) -> None:
    """Check that the config takes the ends of each range, and each choice, one at a time.

    Raises:
        ValueError: it does not take one, or has no such key.
    """
    for key, values in space.root.items():
        for value in values.values if isinstance(values, Choice) else (values.low, values.high):
            configs.load(config, [*changes, change(key, value)])


def _check_range(low: float, high: float, *, log: bool, step: float | None) -> None:
    if low >= high:
        raise ValueError(f"low: {low} is not below high, {high}")
    if log and low <= 0:
        raise ValueError(f"low: {low} has no logarithm; give one above 0, or log: false")
    if log and step is not None:
        raise ValueError("log and step go apart: steps are even, and logarithms are not")
