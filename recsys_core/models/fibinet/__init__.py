"""FiBiNET: bilinear products of all pairs of features, of the vectors as they are and as a gate has weighed them.

Huang et al. 2019, FiBiNET: Combining Feature Importance and Bilinear Feature Interaction for Click-Through Rate
Prediction (section 3). As of `fm`, an embedding's first number is the id's weight in the linear part, and the others
are the vector.
"""

from typing import Literal

from pydantic import Field, PositiveInt

from recsys_core.artifacts import ComponentConfig


class Config(ComponentConfig):
    """YAML section `model`."""

    kind: Literal["fibinet"] = "fibinet"
    bilinear: Literal["all", "each", "interaction"] = Field(
        default="all", description="what has a matrix of its own: all pairs one, each first feature, or each pair"
    )
    reduction: int = Field(
        default=3, ge=1, description="the gate over features (SENET) has this many times fewer hidden units than these"
    )
    hidden: tuple[PositiveInt, ...] = Field(
        default=(400, 400), description="hidden widths of the MLP over the products"
    )
    dropout: float = Field(default=0.0, ge=0, lt=1, description="of the MLP")
