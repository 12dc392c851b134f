"""DSSM: a query tower and an item tower that meet in one dot product.

Huang et al. 2013, Learning Deep Structured Semantic Models (section 3); for recommendation, Covington et al. 2016 and
Yi et al. 2019.
"""

from typing import Literal

from pydantic import Field, PositiveInt

from recsys_core.artifacts import ComponentConfig


class Config(ComponentConfig):
    """YAML section `model`."""

    kind: Literal["two_tower"] = "two_tower"
    output_dim: int = Field(default=64, ge=1, description="width D of the embeddings that meet")
    query_hidden: tuple[PositiveInt, ...] = Field(default=(128,), description="hidden widths of the query tower")
    item_hidden: tuple[PositiveInt, ...] = Field(default=(128,), description="hidden widths of the item tower")
    similarity: Literal["cosine", "inner_product"] = "cosine"
    dropout: float = Field(default=0.0, ge=0, lt=1)
