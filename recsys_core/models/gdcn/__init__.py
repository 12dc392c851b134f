"""GDCN: cross layers whose crosses each pass a gate, and an MLP.

Wang et al. 2023, Towards Deeper, Lighter and Interpretable Cross Network for CTR Prediction (section 3): GDCN-P with
`structure: parallel`, GDCN-S with `stacked`.
"""

from typing import Literal

from pydantic import Field, PositiveInt

from recsys_core.artifacts import ComponentConfig


class Config(ComponentConfig):
    """YAML section `model`."""

    kind: Literal["gdcn"] = "gdcn"
    num_crosses: int = Field(default=3, ge=1, description="gated cross layers")
    structure: Literal["parallel", "stacked"] = Field(
        default="parallel", description="whether the MLP stands beside the cross layers, or behind them"
    )
    hidden: tuple[PositiveInt, ...] = Field(default=(400, 400), description="hidden widths of the MLP")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="of the MLP")
