"""Wide & Deep: a linear model, which remembers, beside an MLP, which generalises; trained together.

Cheng et al. 2016, Wide & Deep Learning for Recommender Systems (section 3). An embedding's first number is the id's
weight in the wide part, and the deep part reads the others. The paper's crosses are features of `kind: combo`; named in
`wide_only` they are no part of the deep one, and then an id's weight is the sum of its embedding.
"""

from typing import Literal

from pydantic import Field, PositiveInt

from recsys_core.artifacts import ComponentConfig


class Config(ComponentConfig):
    """YAML section `model`."""

    kind: Literal["wide_and_deep"] = "wide_and_deep"
    wide_only: tuple[str, ...] = Field(
        default=(), description="features of ids that the deep part does not read, such as crosses"
    )
    hidden: tuple[PositiveInt, ...] = Field(default=(400, 400), description="hidden widths of the deep part")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="of the deep part")
