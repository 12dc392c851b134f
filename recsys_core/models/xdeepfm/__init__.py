"""xDeepFM: a compressed interaction network over the features' vectors, beside a linear model and an MLP.

Lian et al. 2018, xDeepFM: Combining Explicit and Implicit Feature Interactions for Recommender Systems (section 3). As
of `fm`, an embedding's first number is the id's weight in the linear model, and the others are the vector.
"""

from typing import Literal

from pydantic import Field, PositiveInt

from recsys_core.artifacts import ComponentConfig


class Config(ComponentConfig):
    """YAML section `model`."""

    kind: Literal["xdeepfm"] = "xdeepfm"
    interactions: tuple[PositiveInt, ...] = Field(
        default=(32, 32), min_length=1, description="vectors that each layer of the interaction network makes"
    )
    hidden: tuple[PositiveInt, ...] = Field(default=(400, 400), description="hidden widths of the MLP")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="of the MLP")
