"""MMoE: networks that all tasks share, which a gate of each task mixes for its tower.

Ma et al. 2018, Modeling Task Relationships in Multi-task Learning with Multi-gate Mixture-of-Experts (section 4).
"""

from typing import Literal

from pydantic import Field, PositiveInt

from recsys_core.models.blocks.sections import Tasks


class Config(Tasks):
    """YAML section `model`."""

    kind: Literal["mmoe"] = "mmoe"
    num_experts: int = Field(default=4, ge=2, description="networks over all features")
    hidden: tuple[PositiveInt, ...] = Field(default=(128, 64), min_length=1, description="widths of each of them")
