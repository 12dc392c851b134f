"""Huber's loss. Legend: B examples."""

from torch import Tensor
from torch.nn import functional

from recsys_core.losses import base
from recsys_core.losses.huber import Config


class Loss(base.RankingLoss):
    """d²/2 of d = |output - label| up to delta, and delta (d - delta/2) beyond."""

    learns = "value"

    def __init__(self, config: Config) -> None:
        """Take the section's options."""
        super().__init__()
        self._delta = config.delta

    def forward(self, logits_B: Tensor, labels_B: Tensor) -> Tensor:
        """See `base.RankingLoss.forward`."""
        return functional.huber_loss(logits_B, labels_B, reduction="none", delta=self._delta)
