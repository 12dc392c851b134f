"""Huber's loss of values: squared near the label, absolute far from it.

Huber 1964, Robust Estimation of a Location Parameter (section 1).
"""

from typing import Literal

from pydantic import Field

from recsys_core.artifacts import ComponentConfig


class Config(ComponentConfig):
    """YAML section `loss` of a ranking config."""

    kind: Literal["huber"] = "huber"
    delta: float = Field(default=1.0, gt=0, description="how far from the label it goes over from one to the other")
