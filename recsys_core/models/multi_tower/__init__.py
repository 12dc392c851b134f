"""Deep towers side by side, and an MLP over what they give; a single tower is a plain deep network.

Covington et al. 2016, Deep Neural Networks for YouTube Recommendations (section 4), with one tower or several.
"""

from typing import Literal

from pydantic import Field, PositiveInt

from recsys_core.artifacts import ComponentConfig
from recsys_core.models.blocks.sections import Tower


class Config(ComponentConfig):
    """YAML section `model`."""

    kind: Literal["multi_tower"] = "multi_tower"
    towers: tuple[Tower, ...] = Field(default=(Tower(hidden=(256, 128)),), min_length=1)
    hidden: tuple[PositiveInt, ...] = Field(default=(64, 32), description="hidden widths of the MLP over all towers")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="of the towers and the MLP over them")
