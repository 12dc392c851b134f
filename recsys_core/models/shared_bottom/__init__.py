"""Shared bottom: one MLP over all features, and on it a tower of its own for each task.

Caruana 1997, Multitask Learning (section 2), the baseline of Ma et al. 2018, Modeling Task Relationships in Multi-task
Learning (section 3.1).
"""

from typing import Literal

from pydantic import Field, PositiveInt

from recsys_core.artifacts import ComponentConfig, Frozen


class Tower(Frozen):
    """One task's part."""

    hidden: tuple[PositiveInt, ...] = Field(default=(32,), description="hidden widths of the task's tower")


class Config(ComponentConfig):
    """YAML section `model`."""

    kind: Literal["shared_bottom"] = "shared_bottom"
    hidden: tuple[PositiveInt, ...] = Field(
        default=(128, 64), min_length=1, description="widths of the MLP over all features, which all tasks share"
    )
    tasks: dict[str, Tower] = Field(min_length=2, description="each task's tower, by the names of ranking.tasks")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="of the shared MLP and the towers")
