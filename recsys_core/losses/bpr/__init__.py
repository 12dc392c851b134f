"""BPR: each positive row against the negative ones of its group, by how likely it is to score higher.

Rendle et al. 2009, BPR: Bayesian Personalized Ranking from Implicit Feedback (section 4). Groups are those of
`ranking.group`, as far as their rows meet in a batch of one rank. What is learned is an order: scores are no logits of
probabilities; add `binary_cross_entropy` (see `weighted`) if they have to be.
"""

from typing import Literal

from recsys_core.artifacts import ComponentConfig


class Config(ComponentConfig):
    """YAML section `loss` of a ranking config; there is nothing to choose."""

    kind: Literal["bpr"] = "bpr"
