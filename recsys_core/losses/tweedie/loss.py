"""Tweedie loss. Legend: B examples."""

from torch import Tensor

from recsys_core.losses import base
from recsys_core.losses.tweedie import Config


class Loss(base.RankingLoss):
    """-y m^(1 - p) / (1 - p) + m^(2 - p) / (2 - p) of the amount m = exp(output), the power p and the label y.

    That is the negative log-likelihood, up to what the output does not change.
    """

    learns = "amount"

    def __init__(self, config: Config) -> None:
        """Take the section's options."""
        super().__init__()
        self._power = config.power

    def forward(self, logits_B: Tensor, labels_B: Tensor) -> Tensor:
        """See `base.RankingLoss.forward`."""
        of_label, of_mean = 1 - self._power, 2 - self._power
        return (of_mean * logits_B).exp() / of_mean - labels_B * (of_label * logits_B).exp() / of_label
