"""DLRM: dense fields and embeddings meet in the dot products of all pairs.

Naumov et al. 2019, Deep Learning Recommendation Model for Personalization and Recommendation Systems (section 2).
"""

from typing import Literal

from pydantic import Field, PositiveInt

from recsys_core.artifacts import ComponentConfig


class Config(ComponentConfig):
    """YAML section `model`."""

    kind: Literal["dlrm"] = "dlrm"
    bottom_hidden: tuple[PositiveInt, ...] = Field(
        default=(64,), description="hidden widths of the MLP over dense fields, which ends in the embeddings' width"
    )
    top_hidden: tuple[PositiveInt, ...] = Field(
        default=(64, 32), description="hidden widths of the MLP over the interactions"
    )
    concat_pooled: bool = Field(
        default=False,
        description="the top MLP reads all embeddings too, not only the dense fields' vector and the pairs",
    )
    dropout: float = Field(default=0.0, ge=0, lt=1, description="of the top MLP")
