"""Sampled softmax, row by row and as a sum that never holds all logits.

Legend: B queries, N sampled negatives, M = B + N items, D embedding.
"""

from typing import Any

import torch
from torch import Tensor

from recsys_core.losses import base
from recsys_core.losses.sampled_softmax import Config
from recsys_core.ops.linear import linear, outer, product_dtype

# Of the logits a block this large is made at a time: it stays in the processor's cache.
_BLOCK_NUMBERS = 1 << 20
_ALIGNED_NUMBERS = 16  # of float32 these fill a cache line
_LEAST_SHARE = 1e-30  # smaller ones lose digits, and in the end are 0


class Loss(base.RetrievalLoss):
    """Cross-entropy of the positive against the negatives, [B]; a negative that is the positive itself is masked."""

    def __init__(self, config: Config) -> None:
        """Take the section's options."""
        super().__init__()
        self._temperature = config.temperature
        self.in_batch_negatives, self.logq_correction = config.in_batch_negatives, config.logq_correction

    def total(self, query_BD: Tensor, item_MD: Tensor, item_rows_M: Tensor, log_expected_M: Tensor) -> Tensor:
        """See `base.RetrievalLoss.total`; [B, N] is never whole, and the gradient costs no second pass."""
        correction_M = log_expected_M if self.logq_correction else torch.zeros_like(log_expected_M)
        scaled_MD = item_MD / self._temperature
        first = 0 if self.in_batch_negatives else len(query_BD)
        return _Total.apply(query_BD, scaled_MD, item_rows_M, correction_M, first)

    def logits(
        self, query_BD: Tensor, item_MD: Tensor, item_rows_M: Tensor, correction_M: Tensor, *, in_batch: bool
    ) -> tuple[Tensor, Tensor]:
        """See `base.RetrievalLoss.logits`.

        Scaling and correction ride on the matrix product: [B, N] is the large thing here.
        """
        num_queries = len(query_BD)
        first = 0 if in_batch else num_queries
        scaled_MD = item_MD / self._temperature
        positive_B = (query_BD * scaled_MD[:num_queries]).sum(dim=1) - correction_M[:num_queries]
        negative_BN = torch.addmm(-correction_M[first:], query_BD, scaled_MD[first:].T)
        # An in-batch column that is the row's own positive counts as a hit too. Finite, so that gradients stay so.
        hits_BN = item_rows_M[:num_queries, None] == item_rows_M[None, first:]
        return positive_B, negative_BN.masked_fill(hits_BN, torch.finfo(negative_BN.dtype).min / 2)

    def of_logits(self, positive_B: Tensor, negative_BN: Tensor) -> Tensor:
        """See `base.RetrievalLoss.of_logits`: -log softmax of the positive among it and the negatives."""
        return torch.logaddexp(positive_B, negative_BN.logsumexp(dim=1)) - positive_B


class _Total(torch.autograd.Function):
    """The sum of the losses, block by block of queries; each block's gradient is taken while its logits are there.

    A query's softmax over the negatives and its positive gives both: loss -log p, gradient p - [positive]. The sum is
    a scalar, so all that its own gradient does is scale. Under autocast the products are of its type; the losses
    and what is added up over blocks are float32.

    A block, of a width C that keeps its rows aligned:   n0 … nN-1 | positive | -inf …
    What its last columns are multiplied with is 0.
    """

    @staticmethod
    def forward(
        ctx: Any, query_BD: Tensor, item_MD: Tensor, item_rows_M: Tensor, correction_M: Tensor, first: int
    ) -> Tensor:
        kind = product_dtype(query_BD)
        num_queries, num_negatives = len(query_BD), len(item_MD) - first
        every = min(max(1, _BLOCK_NUMBERS // max(1, num_negatives)), max(1, num_queries))
        width = -(-(num_negatives + 1) // _ALIGNED_NUMBERS) * _ALIGNED_NUMBERS
        query_BK, negative_CK = _corrected(query_BD, item_MD[first:], correction_M[first:], kind, width)
        narrow_BD, negative_CD = query_BD.to(kind), _longer(item_MD[first:].to(kind), width)
        positive_B = (query_BD * item_MD[:num_queries]).sum(dim=1) - correction_M[:num_queries]
        hits = _Hits(item_rows_M[:num_queries], item_rows_M[first:])
        of_query_BD, of_negative_DC = torch.empty_like(query_BD), query_BD.new_zeros(query_BD.shape[1], width)
        of_positive_B, losses_B = torch.empty_like(positive_B), torch.empty_like(positive_B)

        def logits(rows: slice | Tensor) -> Tensor:
            made_XC = linear(query_BK[rows], negative_CK)
            hits.fill(made_XC[:, :num_negatives], rows, torch.finfo(kind).min / 2)
            made_XC[:, num_negatives] = positive_B[rows]
            return made_XC

        def losses(logits_XC: Tensor) -> Tensor:
            wide_XC = logits_XC.to(losses_B.dtype)
            return wide_XC.logsumexp(dim=1) - wide_XC[:, num_negatives]

        # To look which losses the shares cannot give is free only where they lie in this process's memory.
        by_share = query_BD.device.type == "cpu"
        for start in range(0, num_queries, every):
            rows = slice(start, min(start + every, num_queries))
            share_XC = logits(rows)
            if not by_share:
                losses_B[rows] = losses(share_XC)
            torch.softmax(share_XC, dim=1, out=share_XC)
            of_positive_B[rows] = share_XC[:, num_negatives]
            of_query_BD[rows] = linear(share_XC, negative_CD.T)
            of_negative_DC += outer(narrow_BD[rows], share_XC)
        if by_share:
            losses_B = of_positive_B.log().neg_()
            for rows in (of_positive_B < _LEAST_SHARE).nonzero().flatten().split(every):
                losses_B[rows] = losses(logits(rows))
        of_positive_B1 = (of_positive_B - 1)[:, None]
        of_query_BD.addcmul_(of_positive_B1, item_MD[:num_queries])
        of_negative_ND = of_negative_DC[:, :num_negatives].T
        of_item_MD = torch.cat([torch.zeros_like(item_MD[:first]), of_negative_ND])
        of_item_MD[:num_queries].addcmul_(of_positive_B1, query_BD)
        ctx.save_for_backward(of_query_BD, of_item_MD)
        return losses_B.sum()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        of_query_BD, of_item_MD = ctx.saved_tensors
        return of_query_BD * gradients[0], of_item_MD * gradients[0], None, None, None


def _corrected(
    query_BD: Tensor, negative_ND: Tensor, correction_N: Tensor, kind: torch.dtype, width: int
) -> tuple[Tensor, Tensor]:
    """Return [B, K] and [C, K] whose products are the queries' with the negatives, less the correction, then -inf.

    What a narrow type rounds off the correction has a column of its own.
    """
    ones_B1 = torch.ones_like(query_BD[:, :1])
    whole_N = -correction_N.to(kind)
    rest_N = (-correction_N - whole_N).to(kind)
    query_BK = torch.cat([query_BD, ones_B1, ones_B1], dim=1).to(kind)
    negative_NK = torch.cat([negative_ND.to(kind), whole_N[:, None], rest_N[:, None]], dim=1)
    negative_CK = _longer(negative_NK, width)
    negative_CK[len(negative_NK) :, -2] = -torch.inf
    return query_BK, negative_CK


def _longer(rows: Tensor, count: int) -> Tensor:
    """Return `count` rows, of which the last are zeros."""
    return torch.nn.functional.pad(rows, (0, 0, 0, count - len(rows)))


class _Hits:
    """Which columns are the row's own item. There are few: on a CPU it is faster to name them than to look at all."""

    def __init__(self, rows_B: Tensor, columns_N: Tensor) -> None:
        self._rows_B, self._columns_N = rows_B, columns_N
        if rows_B.device.type == "cpu":
            sorted_N, self._order_N = columns_N.sort()
            self._low_B = torch.searchsorted(sorted_N, rows_B)
            self._count_B = torch.searchsorted(sorted_N, rows_B, right=True) - self._low_B

    def fill(self, block_XN: Tensor, rows: slice | Tensor, value: float) -> None:
        """Set the hits of the queries `rows`, to which the block belongs, to `value`."""
        if block_XN.device.type != "cpu":
            block_XN.masked_fill_(self._rows_B[rows][:, None] == self._columns_N[None], value)
            return
        count_X = self._count_B[rows]
        at = torch.repeat_interleave(count_X)
        past = torch.arange(len(at)) - (count_X.cumsum(0) - count_X)[at]
        block_XN[at, self._order_N[self._low_B[rows][at] + past]] = value
