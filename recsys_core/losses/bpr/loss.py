"""BPR. Legend: B examples, N pairs."""

from torch import Tensor
from torch.nn import functional

from recsys_core.losses import base
from recsys_core.losses._groups import mean_of_pairs, pairs
from recsys_core.losses.bpr import Config


class Loss(base.GroupedLoss):
    """-log sigmoid(positive - negative), the mean over the negatives of a positive row's group."""

    def __init__(self, _config: Config) -> None:
        """There is nothing to choose."""
        super().__init__()

    def of_groups(self, logits_B: Tensor, labels_B: Tensor, groups_B: Tensor) -> Tensor:
        """See `base.RankingLoss.of_groups`; a row that is not positive, or without a negative, has a loss of 0."""
        positive_N, negative_N = pairs(labels_B, groups_B)
        losses_N = -functional.logsigmoid(logits_B[positive_N] - logits_B[negative_N])
        return mean_of_pairs(losses_N, positive_N, len(logits_B))
