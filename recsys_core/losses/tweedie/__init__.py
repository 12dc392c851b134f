"""Tweedie loss of amounts: many labels are 0, and the others are positive and skewed, such as a user's spending.

Jørgensen 1987, Exponential Dispersion Models; of powers between 1 and 2 these are sums of a Poisson number of gamma
amounts.
"""

from typing import Literal

from pydantic import Field

from recsys_core.artifacts import ComponentConfig


class Config(ComponentConfig):
    """YAML section `loss` of a ranking config."""

    kind: Literal["tweedie"] = "tweedie"
    power: float = Field(
        default=1.5, gt=1, lt=2, description="the variance grows as the mean to this power: 1 Poisson's, 2 gamma's"
    )
