"""Full cross-entropy. Legend: B queries, N items of the table, M = B + N items, D embedding."""

from torch import Tensor

from recsys_core.losses import base, sampled_softmax
from recsys_core.losses.full_cross_entropy import Config
from recsys_core.losses.sampled_softmax.loss import Loss as Softmax


class Loss(base.RetrievalLoss):
    """The softmax over a positive and negatives that are all items: the positive among these is left out."""

    in_batch_negatives = False
    logq_correction = False

    def __init__(self, config: Config) -> None:
        """Take the section's options."""
        super().__init__()
        self._softmax = Softmax(sampled_softmax.Config(temperature=config.temperature, logq_correction=False))

    def logits(
        self, query_BD: Tensor, item_MD: Tensor, item_rows_M: Tensor, correction_M: Tensor, *, in_batch: bool
    ) -> tuple[Tensor, Tensor]:
        """See `base.RetrievalLoss.logits`."""
        return self._softmax.logits(query_BD, item_MD, item_rows_M, correction_M, in_batch=in_batch)

    def of_logits(self, positive_B: Tensor, negative_BN: Tensor) -> Tensor:
        """See `base.RetrievalLoss.of_logits`: -log softmax of the positive among all items."""
        return self._softmax.of_logits(positive_B, negative_BN)

    def total(self, query_BD: Tensor, item_MD: Tensor, item_rows_M: Tensor, log_expected_M: Tensor) -> Tensor:
        """See `base.RetrievalLoss.total`; [B, N] is never whole."""
        return self._softmax.total(query_BD, item_MD, item_rows_M, log_expected_M)
