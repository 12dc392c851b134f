"""Shared bottom: one MLP over all features, and on it a tower of its own for each task.

Caruana 1997, Multitask Learning (section 2), the baseline of Ma et al. 2018, Modeling Task Relationships in Multi-task
Learning (section 3.1).
"""

from typing import Literal

from pydantic import Field, PositiveInt

from recsys_core.models.blocks.sections import Tasks


class Config(Tasks):
    """YAML section `model`."""

    kind: Literal["shared_bottom"] = "shared_bottom"
    hidden: tuple[PositiveInt, ...] = Field(
        default=(128, 64), min_length=1, description="widths of the MLP over all features, which all tasks share"
    )
