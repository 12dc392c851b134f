"""CCL. Legend: B queries, N negatives, M = B + N items, D embedding."""

from torch import Tensor
from torch.nn import functional

from recsys_core.losses import base, sampled_softmax
from recsys_core.losses.ccl import Config
from recsys_core.losses.sampled_softmax.loss import Loss as Softmax


class Loss(base.RetrievalLoss):
    """1 - positive + weight / N · Σ max(0, negative - margin), of cosines."""

    in_batch_negatives = False
    logq_correction = False

    def __init__(self, config: Config) -> None:
        """Take the section's options."""
        super().__init__()
        self._margin, self._weight = config.margin, config.negative_weight
        self._softmax = Softmax(sampled_softmax.Config(temperature=1.0, logq_correction=False))

    def logits(
        self, query_BD: Tensor, item_MD: Tensor, item_rows_M: Tensor, correction_M: Tensor, *, in_batch: bool
    ) -> tuple[Tensor, Tensor]:
        """See `base.RetrievalLoss.logits`: cosines, of vectors of unit length."""
        return self._softmax.logits(query_BD, item_MD, item_rows_M, correction_M, in_batch=in_batch)

    def of_logits(self, positive_B: Tensor, negative_BN: Tensor) -> Tensor:
        """See `base.RetrievalLoss.of_logits`; a negative that counts as none adds nothing."""
        above_BN = functional.relu(negative_BN - self._margin)
        return 1 - positive_B + self._weight * above_BN.mean(dim=1)
