"""Listwise softmax: each positive row against all rows of its group at once.

Cao et al. 2007, Learning to Rank: From Pairwise Approach to Listwise Approach (section 4: ListNet, top one), of labels
0 and 1. Groups are those of `ranking.group`, as far as their rows meet in a batch of one rank. What is learned is an
order: scores are no logits of probabilities.
"""

from typing import Literal

from recsys_core.artifacts import ComponentConfig


class Config(ComponentConfig):
    """YAML section `loss` of a ranking config; there is nothing to choose."""

    kind: Literal["listwise"] = "listwise"
