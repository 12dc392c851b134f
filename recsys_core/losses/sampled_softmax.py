"""Sampled softmax over a positive and shared negatives.

Legend: B queries, N sampled negatives, D embedding. Correction for the sampling distribution (logQ) as in Bengio &
Senécal 2008; in-batch negatives with the same correction as in Yi et al. 2019 (section 4, equation 6), mixed with
sampled ones as in Yang et al. 2020.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from recsys_core.artifacts import Frozen


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
        """Return the sum of the losses, see `forward`."""
        return self(query_BD, item_MD, item_rows_M, log_expected_M).sum()

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
