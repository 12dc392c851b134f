"""MaskNet: blocks that multiply the features by masks which follow from the features themselves.

Wang et al. 2021, MaskNet: Introducing Feature-Wise Multiplication to CTR Ranking Models by Instance-Guided Mask
(section 3).
"""

from typing import Literal

from pydantic import Field, PositiveInt

from recsys_core.artifacts import ComponentConfig


class Config(ComponentConfig):
    """YAML section `model`."""

    kind: Literal["masknet"] = "masknet"
    structure: Literal["parallel", "serial"] = Field(
        default="parallel", description="whether all blocks read the features, or each the block before it"
    )
    blocks: tuple[PositiveInt, ...] = Field(
        default=(64, 64, 64), min_length=1, description="output width of each block"
    )
    reduction: float = Field(
        default=2.0, gt=0, description="how many times wider the masks' hidden layer is than the mask"
    )
    hidden: tuple[PositiveInt, ...] = Field(default=(400, 400), description="hidden widths of the MLP over the blocks")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="of the MLP")
