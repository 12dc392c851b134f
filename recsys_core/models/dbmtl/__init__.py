"""DBMTL: a shared network, a network for each task, and edges between tasks along which one reads another.

Wang et al. 2019, Deep Bayesian Multi-Target Learning for Recommender Systems (section 3): the targets are the nodes of
a Bayesian network, whose conditional probabilities are networks too.
"""

from typing import Literal, Self

from pydantic import Field, PositiveInt, model_validator

from recsys_core.models.blocks.sections import Tasks, TaskTower


class Node(TaskTower):
    """One task's part."""

    hidden: tuple[PositiveInt, ...] = Field(
        default=(32,), min_length=1, description="widths of the task's network over what is shared"
    )
    reads: tuple[str, ...] = Field(default=(), description="earlier tasks, whose last hidden layers it reads beside")
    relation: tuple[PositiveInt, ...] = Field(
        default=(32,), min_length=1, description="widths of the network over both, of a task that reads another"
    )


class Config(Tasks):
    """YAML section `model`."""

    kind: Literal["dbmtl"] = "dbmtl"
    hidden: tuple[PositiveInt, ...] = Field(
        default=(128, 64), min_length=1, description="widths of the MLP over all features, which all tasks share"
    )
    tasks: dict[str, Node] = Field(min_length=2, description="each task's part, by the names of ranking.tasks")  # pyright: ignore[reportIncompatibleVariableOverride]

    @model_validator(mode="after")
    def _reads_earlier_ones(self) -> Self:
        for number, (name, node) in enumerate(self.tasks.items()):
            earlier = [*self.tasks][:number]
            if strays := [other for other in node.reads if other not in earlier]:
                known = f"those before it are {', '.join(earlier)}" if earlier else "it is the first and reads none"
                raise ValueError(f"tasks.{name}.reads: {strays[0]!r} is no earlier task ({known})")
        return self
