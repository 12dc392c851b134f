"""CCL: the cosine of a positive is pulled to 1, and those of negatives below a margin.

Mao et al. 2021, SimpleX: A Simple and Strong Baseline for Collaborative Filtering. For models of `similarity: cosine`.
"""

from typing import ClassVar, Literal

from pydantic import Field

from recsys_core.artifacts import ComponentConfig


class Config(ComponentConfig):
    """YAML section `loss`."""

    similarity: ClassVar[str] = "cosine"

    kind: Literal["ccl"] = "ccl"
    margin: float = Field(default=0.5, ge=-1, lt=1, description="a negative of a lower cosine adds nothing")
    negative_weight: float = Field(default=150.0, gt=0, description="of the mean over negatives, against the positive")
