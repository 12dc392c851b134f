"""DeepFM: a factorisation machine, and an MLP over the same factors.

Guo et al. 2017, DeepFM: A Factorization-Machine based Neural Network for CTR Prediction (section 2). As of `fm`, an
embedding's first number is the id's weight, and the others are its factors.
"""

from typing import Literal

from pydantic import Field, PositiveInt

from recsys_core.artifacts import ComponentConfig


class Config(ComponentConfig):
    """YAML section `model`."""

    kind: Literal["deepfm"] = "deepfm"
    hidden: tuple[PositiveInt, ...] = Field(default=(400, 400), description="hidden widths of the MLP over all factors")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="of the MLP")
