"""PLE: networks of each task's own beside shared ones, so that tasks in conflict do not meet everywhere.

Tang et al. 2020, Progressive Layered Extraction (PLE): A Novel Multi-Task Learning (MTL) Model for Personalized
Recommendations (section 4). With one layer it is their customized gate control (CGC).
"""

from typing import Literal

from pydantic import Field, PositiveInt

from recsys_core.artifacts import Frozen
from recsys_core.models.blocks.sections import Tasks


class Layer(Frozen):
    """One extraction network."""

    num_shared: int = Field(default=2, ge=1, description="networks that all tasks share")
    num_own: int = Field(default=2, ge=1, description="networks of each task's own")
    hidden: tuple[PositiveInt, ...] = Field(min_length=1, description="widths of each network")


class Config(Tasks):
    """YAML section `model`."""

    kind: Literal["ple"] = "ple"
    layers: tuple[Layer, ...] = Field(
        default=(Layer(hidden=(128,)), Layer(hidden=(64,))),
        min_length=1,
        description="extraction networks; the first one reads the features, each other one the one before it",
    )
