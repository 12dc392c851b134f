"""gBCE. Legend: B queries, N negatives, M = B + N items, D embedding."""

from torch import Tensor
from torch.nn import functional

from recsys_core.losses import base, sampled_softmax
from recsys_core.losses.gbce import Config
from recsys_core.losses.sampled_softmax.loss import Loss as Softmax


class Loss(base.RetrievalLoss):
    """-(power · log p + Σ log(1 - q)) / (N + 1), of the probabilities p of the positive and q of each negative.

    The power is 1 - t (1 - drawn), where drawn is the share of the other items that N is.
    """

    in_batch_negatives = False
    logq_correction = False

    def __init__(self, config: Config) -> None:
        """Take the section's options."""
        super().__init__()
        self._calibration = config.calibration
        self._softmax = Softmax(sampled_softmax.Config(temperature=config.temperature, logq_correction=False))

    def logits(
        self, query_BD: Tensor, item_MD: Tensor, item_rows_M: Tensor, correction_M: Tensor, *, in_batch: bool
    ) -> tuple[Tensor, Tensor]:
        """See `base.RetrievalLoss.logits`."""
        return self._softmax.logits(query_BD, item_MD, item_rows_M, correction_M, in_batch=in_batch)

    def of_logits(self, positive_B: Tensor, negative_BN: Tensor) -> Tensor:
        """See `base.RetrievalLoss.of_logits`; a negative that counts as none adds nothing."""
        num_negatives = negative_BN.shape[1]
        drawn = min(1.0, num_negatives / max(self.num_items - 1, 1))
        power = 1 - self._calibration * (1 - drawn)
        positive_B = power * functional.softplus(-positive_B)
        return (positive_B + functional.softplus(negative_BN).sum(dim=1)) / (num_negatives + 1)
