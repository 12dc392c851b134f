"""JRC. Legend: B examples."""

import torch
from torch import Tensor
from torch.nn import functional

from recsys_core.losses import base
from recsys_core.losses._groups import log_softmax
from recsys_core.losses.jrc import Config


class Loss(base.GroupedLoss):
    """alpha times -log p(label | row), and 1 - alpha times -log p(row | label, group).

    The latter is the row's share of the softmax over its group of the logits of the row's own label.
    """

    def __init__(self, config: Config) -> None:
        """Take the section's options."""
        super().__init__()
        self._alpha = config.alpha

    def of_groups(self, logits_B: Tensor, labels_B: Tensor, groups_B: Tensor) -> Tensor:
        """See `base.RankingLoss.of_groups`; in nats."""
        pointwise_B = functional.binary_cross_entropy_with_logits(logits_B, labels_B, reduction="none")
        shares_B = torch.where(
            labels_B > 0.5, log_softmax(logits_B / 2, groups_B), log_softmax(-logits_B / 2, groups_B)
        )
        return self._alpha * pointwise_B - (1 - self._alpha) * shares_B
