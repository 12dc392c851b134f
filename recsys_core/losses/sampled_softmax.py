"""Sampled softmax over a positive and shared negatives.

Legend: B queries, N sampled negatives, D embedding. Correction for the sampling distribution (logQ) as in Bengio &
Senécal 2008; in-batch negatives with the same correction as in Yi et al. 2019 (section 4, equation 6), mixed with
sampled ones as in Yang et al. 2020.
"""

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from recsys_core.artifacts import Frozen

# Of the logits a block this large is made at a time: it stays in the processor's cache.
_BLOCK_NUMBERS = 1 << 19


class Config(Frozen):
    """YAML section `loss`."""

    kind: Literal["sampled_softmax"] = "sampled_softmax"
    temperature: float = Field(default=0.1, gt=0, description="divides the similarity before the softmax")
    in_batch_negatives: bool = Field(default=False, description="other rows' positives are negatives too")
    logq_correction: bool = Field(
        default=True, description="subtract log of each item's expected count: scores then rank as a full softmax's do"
    )


class Loss(nn.Module):
    """Cross-entropy of the positive against the negatives, [B]; a negative that is the positive itself is masked."""

    def __init__(self, config: Config) -> None:
        """Take the section's options."""
        super().__init__()
        self._config = config

    def forward(self, query_BD: Tensor, item_MD: Tensor, item_rows_M: Tensor, log_expected_M: Tensor) -> Tensor:
        """Return each query's loss [B].

        Args:
            query_BD: query embeddings.
            item_MD: item embeddings, M = B + N: item i < B is the positive of query i, the rest are negatives.
            item_rows_M: which item each is, to find accidental hits.
            log_expected_M: log of how often the item is expected among a batch's negatives, up to a constant.
        """
        if not self._config.logq_correction:
            log_expected_M = torch.zeros_like(log_expected_M)
        positive_B, negative_BN = self.logits(query_BD, item_MD, item_rows_M, log_expected_M)
        return torch.logaddexp(positive_B, negative_BN.logsumexp(dim=1)) - positive_B

    def total(self, query_BD: Tensor, item_MD: Tensor, item_rows_M: Tensor, log_expected_M: Tensor) -> Tensor:
        """Return the sum of the losses of `forward`, without making [B, N] whole; its gradient costs no second pass."""
        correction_M = log_expected_M if self._config.logq_correction else torch.zeros_like(log_expected_M)
        scaled_MD = item_MD / self._config.temperature
        first = 0 if self._config.in_batch_negatives else len(query_BD)
        return _Total.apply(query_BD, scaled_MD, item_rows_M, correction_M, first)

    def logits(
        self, query_BD: Tensor, item_MD: Tensor, item_rows_M: Tensor, correction_M: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the logits of the positives [B] and of the negatives [B, N], or [B, B + N] with in-batch ones.

        `correction_M` is subtracted. Scaling and correction ride on the matrix product: [B, N] is the large thing here.
        """
        num_queries = len(query_BD)
        first = 0 if self._config.in_batch_negatives else num_queries
        scaled_MD = item_MD / self._config.temperature
        positive_B = (query_BD * scaled_MD[:num_queries]).sum(dim=1) - correction_M[:num_queries]
        negative_BN = torch.addmm(-correction_M[first:], query_BD, scaled_MD[first:].T)
        # An in-batch column that is the row's own positive counts as a hit too. Finite, so that gradients stay so.
        hits_BN = item_rows_M[:num_queries, None] == item_rows_M[None, first:]
        return positive_B, negative_BN.masked_fill(hits_BN, torch.finfo(negative_BN.dtype).min / 2)


class _Total(torch.autograd.Function):
    """The sum of the losses, block by block of queries; each block's gradient is taken while its logits are there.

    A query's softmax over its positive and the negatives gives both: loss -log p, gradient p - [positive]. The sum is
    a scalar, so all that its own gradient does is scale.
    """

    @staticmethod
    def forward(
        ctx: Any, query_BD: Tensor, item_MD: Tensor, item_rows_M: Tensor, correction_M: Tensor, first: int
    ) -> Tensor:
        num_queries, negative_ND = len(query_BD), item_MD[first:]
        of_query_BD, of_item_MD = torch.empty_like(query_BD), torch.zeros_like(item_MD)
        losses_B = query_BD.new_empty(num_queries)
        every = max(1, _BLOCK_NUMBERS // max(1, len(negative_ND)))
        smallest = torch.finfo(query_BD.dtype).min / 2
        for start in range(0, num_queries, every):
            rows = slice(start, min(start + every, num_queries))
            query_XD, positive_XD = query_BD[rows], item_MD[rows]
            positive_X = (query_XD * positive_XD).sum(dim=1) - correction_M[rows]
            negative_XN = torch.addmm(-correction_M[first:], query_XD, negative_ND.T)
            negative_XN.masked_fill_(item_rows_M[rows, None] == item_rows_M[None, first:], smallest)
            largest_X = torch.maximum(negative_XN.amax(dim=1), positive_X)
            share_XN = negative_XN.sub_(largest_X[:, None]).exp_()
            of_positive_X = (positive_X - largest_X).exp_()
            sum_X = share_XN.sum(dim=1) + of_positive_X
            losses_B[rows] = sum_X.log() - (positive_X - largest_X)
            share_XN.div_(sum_X[:, None])
            of_positive_X = of_positive_X / sum_X - 1
            torch.addmm(of_positive_X[:, None] * positive_XD, share_XN, negative_ND, out=of_query_BD[rows])
            of_item_MD[first:].addmm_(share_XN.T, query_XD)
            of_item_MD[rows] += of_positive_X[:, None] * query_XD
        ctx.save_for_backward(of_query_BD, of_item_MD)
        return losses_B.sum()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        of_query_BD, of_item_MD = ctx.saved_tensors
        return of_query_BD * gradients[0], of_item_MD * gradients[0], None, None, None
