"""PEPNet: a network for each task, in which gates scale what it reads by the domain and its layers by the user.

Chang et al. 2023, PEPNet: Parameter and Embedding Personalized Network for Infusing with Personalized Prior Information
(section 2). A domain is what changes from row to row as the page or the scene does; of one domain leave `domain` out,
and only the tasks' networks are personalised (PPNet).
"""

from typing import Literal

from pydantic import Field, PositiveInt

from recsys_core.models.blocks.sections import Tasks, TaskTower


class Tower(TaskTower):
    """One task's part."""

    hidden: tuple[PositiveInt, ...] = Field(
        default=(128, 64), min_length=1, description="widths of the task's network; each of its layers has a gate"
    )


class Config(Tasks):
    """YAML section `model`."""

    kind: Literal["pepnet"] = "pepnet"
    domain: tuple[str, ...] = Field(
        default=(), description="features of ids by which a gate scales all features (EPNet); []: there is none"
    )
    prior: tuple[str, ...] = Field(
        min_length=1, description="features of ids by which gates scale the layers, such as user and author (PPNet)"
    )
    gate_hidden: PositiveInt = Field(default=64, description="hidden width of each gate")
    tasks: dict[str, Tower] = Field(min_length=2, description="each task's part, by the names of ranking.tasks")  # pyright: ignore[reportIncompatibleVariableOverride]
