"""Pairwise hinge. Legend: B examples, N pairs."""

from torch import Tensor

from recsys_core.losses import base
from recsys_core.losses._groups import mean_of_pairs, pairs
from recsys_core.losses.hinge import Config


class Loss(base.GroupedLoss):
    """max(0, margin - positive + negative), the mean over the negatives of a positive row's group."""

    def __init__(self, config: Config) -> None:
        """Take the section's options."""
        super().__init__()
        self._margin = config.margin

    def of_groups(self, logits_B: Tensor, labels_B: Tensor, groups_B: Tensor) -> Tensor:
        """See `base.RankingLoss.of_groups`; a row that is not positive, or without a negative, has a loss of 0."""
        positive_N, negative_N = pairs(labels_B, groups_B)
        losses_N = (self._margin - logits_B[positive_N] + logits_B[negative_N]).clamp(min=0)
        return mean_of_pairs(losses_N, positive_N, len(logits_B))
