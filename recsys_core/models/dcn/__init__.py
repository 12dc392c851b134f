"""DCN: cross layers, each of which multiplies the inputs by a weighted sum of what came before it, and an MLP.

Wang et al. 2017, Deep & Cross Network for Ad Click Predictions (section 2). See `dcnv2` for the one with matrices.
"""

from typing import Literal

from pydantic import Field, PositiveInt

from recsys_core.artifacts import ComponentConfig


class Config(ComponentConfig):
    """YAML section `model`."""

    kind: Literal["dcn"] = "dcn"
    num_crosses: int = Field(default=3, ge=1, description="cross layers")
    structure: Literal["parallel", "stacked"] = Field(
        default="parallel", description="whether the MLP stands beside the cross layers, or behind them"
    )
    hidden: tuple[PositiveInt, ...] = Field(default=(400, 400), description="hidden widths of the MLP")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="of the MLP")
