"""Mean absolute error of values: of what outliers have little say in."""

from typing import Literal

from recsys_core.artifacts import ComponentConfig


class Config(ComponentConfig):
    """YAML section `loss` of a ranking config; there is nothing to choose."""

    kind: Literal["mean_absolute_error"] = "mean_absolute_error"
