"""Sections of the config that several models have. Free of torch."""

from pydantic import Field, PositiveInt

from recsys_core.artifacts import Frozen


class Tower(Frozen):
    """A deep tower: `features` that it reads (null: every pooled one), and whether it reads the dense fields."""

    features: tuple[str, ...] | None = None
    dense: bool = True
    hidden: tuple[PositiveInt, ...] = Field(min_length=1)
