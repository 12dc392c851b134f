"""Focal loss. Legend: B examples."""

import torch
from torch import Tensor
from torch.nn import functional

from recsys_core.losses import base
from recsys_core.losses.focal import Config


class Loss(base.RankingLoss):
    """(1 - p)^gamma times -log p, where p is the probability that was given to the row's own label."""

    def __init__(self, config: Config) -> None:
        """Take the section's options."""
        super().__init__()
        self._gamma, self._alpha = config.gamma, config.alpha

    def forward(self, logits_B: Tensor, labels_B: Tensor) -> Tensor:
        """See `base.RankingLoss.forward`; in nats."""
        # The logit of the row's own label. 1 - p is a sigmoid too: 1 minus a rounded p would have no gradient.
        own_B = torch.where(labels_B > 0.5, logits_B, -logits_B)
        losses_B = torch.sigmoid(-own_B) ** self._gamma * -functional.logsigmoid(own_B)
        if self._alpha is None:
            return losses_B
        return losses_B * torch.where(labels_B > 0.5, self._alpha, 1 - self._alpha)
