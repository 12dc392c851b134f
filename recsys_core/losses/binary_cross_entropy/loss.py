"""Binary cross-entropy of logits. Legend: B examples."""

from torch import Tensor
from torch.nn import functional

from recsys_core.losses import base
from recsys_core.losses.binary_cross_entropy import Config


class Loss(base.RankingLoss):
    """-y log p - (1 - y) log(1 - p) with p = sigmoid(logit), computed from the logit, so that no logit is too large."""

    def __init__(self, config: Config) -> None:
        """Take the section's options."""
        super().__init__()
        self._smoothing = config.label_smoothing

    def forward(self, logits_B: Tensor, labels_B: Tensor) -> Tensor:
        """See `base.RankingLoss.forward`; in nats."""
        if self._smoothing:
            labels_B = labels_B * (1 - self._smoothing) + self._smoothing / 2
        return functional.binary_cross_entropy_with_logits(logits_B, labels_B, reduction="none")
