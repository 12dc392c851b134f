"""Mean squared error of values."""

from typing import Literal

from recsys_core.artifacts import ComponentConfig


class Config(ComponentConfig):
    """YAML section `loss` of a ranking config; there is nothing to choose."""

    kind: Literal["mean_squared_error"] = "mean_squared_error"
