"""Mean absolute error. Legend: B examples."""

from torch import Tensor
from torch.nn import functional

from recsys_core.losses import base
from recsys_core.losses.mean_absolute_error import Config


class Loss(base.RankingLoss):
    """|output - label|: what is learned is the label's median."""

    learns = "value"

    def __init__(self, _config: Config) -> None:
        """There is nothing to choose."""
        super().__init__()

    def forward(self, logits_B: Tensor, labels_B: Tensor) -> Tensor:
        """See `base.RankingLoss.forward`."""
        return functional.l1_loss(logits_B, labels_B, reduction="none")
