"""Pairwise hinge: each positive row against the negative ones of its group, as far as it is not a margin above them.

Herbrich et al. 2000, Large Margin Rank Boundaries for Ordinal Regression; Joachims 2002, Optimizing Search Engines
using Clickthrough Data (section 4). Groups are those of `ranking.group`, as far as their rows meet in a batch of one
rank. What is learned is an order: scores are no logits of probabilities.
"""

from typing import Literal

from pydantic import Field

from recsys_core.artifacts import ComponentConfig


class Config(ComponentConfig):
    """YAML section `loss` of a ranking config."""

    kind: Literal["hinge"] = "hinge"
    margin: float = Field(default=1.0, gt=0, description="how far above a negative row a positive one is to be")
