"""The contracts of losses: what they see are logits or embeddings, labels and row numbers; never a model or a rank.

A loss file has a `Config` and a `Loss(config)` of one of the two contracts. Legend: B examples or queries, N sampled
negatives, M = B + N items, D embedding.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from recsys_core.artifacts.ranking import Predicts


class RankingLoss(nn.Module, ABC):
    """How far the logits of labelled rows are off.

    Attributes:
        reads_groups: whether rows are compared with others of their group; if not, `of_groups` is `forward`.
        learns: what the model's output stands for, see `ranking.Task.predicts`.
    """

    DOES: ClassVar[str] = "judges the logits of labelled rows"

    reads_groups: bool = False
    learns: Predicts = "probability"

    @abstractmethod
    def forward(self, logits_B: Tensor, labels_B: Tensor) -> Tensor:
        """Return each row's loss [B], differentiable; labels are those that it `learns` of."""

    def of_groups(self, logits_B: Tensor, labels_B: Tensor, groups_B: Tensor) -> Tensor:  # noqa: ARG002
        """Return each row's loss [B], rows of the same number in `groups_B` (int64) being of one group."""
        return self(logits_B, labels_B)


class GroupedLoss(RankingLoss):
    """One that compares the rows of a group: whose scores are higher than whose."""

    reads_groups = True

    @abstractmethod
    def of_groups(self, logits_B: Tensor, labels_B: Tensor, groups_B: Tensor) -> Tensor:
        """See `RankingLoss.of_groups`."""

    def forward(self, logits_B: Tensor, labels_B: Tensor) -> Tensor:
        """See `RankingLoss.forward`: all rows are one group."""
        return self.of_groups(logits_B, labels_B, torch.zeros_like(labels_B, dtype=torch.int64))


class RetrievalLoss(nn.Module, ABC):
    """How far queries are from their positives, among negatives that they share.

    Attributes:
        in_batch_negatives: whether other rows' positives are negatives too.
        logq_correction: whether log of each item's expected count is subtracted from its logit.
        num_items: of the item table, set before the first batch.
    """

    DOES: ClassVar[str] = "compares queries with items"

    in_batch_negatives: bool
    logq_correction: bool
    num_items: int = 0

    @abstractmethod
    def logits(
        self, query_BD: Tensor, item_MD: Tensor, item_rows_M: Tensor, correction_M: Tensor, *, in_batch: bool
    ) -> tuple[Tensor, Tensor]:
        """Return the logits of the positives [B] and of the negatives [B, N], or [B, B + N] with `in_batch` ones.

        `correction_M` is subtracted. A negative that is the query's own positive counts as none.

        Args:
            query_BD: query embeddings.
            item_MD: item embeddings: item i < B is the positive of query i, the rest are sampled negatives.
            item_rows_M: which item each is, to find accidental hits.
            correction_M: what is subtracted from an item's logits.
            in_batch: whether other rows' positives are negatives too.
        """

    @abstractmethod
    def of_logits(self, positive_B: Tensor, negative_BN: Tensor) -> Tensor:
        """Return each query's loss [B]."""

    def forward(self, query_BD: Tensor, item_MD: Tensor, item_rows_M: Tensor, log_expected_M: Tensor) -> Tensor:
        """Return each query's loss [B], of arguments as `logits` takes them.

        `log_expected_M` is the log of how often the item is expected among a batch's negatives, up to a constant.
        """
        correction_M = log_expected_M if self.logq_correction else log_expected_M.new_zeros(log_expected_M.shape)
        in_batch = self.in_batch_negatives
        return self.of_logits(*self.logits(query_BD, item_MD, item_rows_M, correction_M, in_batch=in_batch))

    def total(self, query_BD: Tensor, item_MD: Tensor, item_rows_M: Tensor, log_expected_M: Tensor) -> Tensor:
        """Return the sum of the losses of `forward`; one that never makes [B, N] whole may be faster."""
        return self(query_BD, item_MD, item_rows_M, log_expected_M).sum()
