"""Listwise softmax. Legend: B examples."""

from torch import Tensor

from recsys_core.losses import base
from recsys_core.losses._groups import log_softmax
from recsys_core.losses.listwise import Config


class Loss(base.GroupedLoss):
    """-log of a positive row's share of its group's softmax."""

    def __init__(self, _config: Config) -> None:
        """There is nothing to choose."""
        super().__init__()

    def of_groups(self, logits_B: Tensor, labels_B: Tensor, groups_B: Tensor) -> Tensor:
        """See `base.RankingLoss.of_groups`; in nats; a row that is not positive has a loss of 0."""
        return -log_softmax(logits_B, groups_B) * labels_B
