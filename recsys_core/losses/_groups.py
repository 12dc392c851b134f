"""Rows of one group beside each other: all pairs of a positive and a negative, and softmaxes over groups.

Legend: B examples, G groups, N pairs.
"""

import torch
from torch import Tensor


def pairs(labels_B: Tensor, groups_B: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows (positive, negative) of all pairs within a group, int64 [N] each.

    group      5   3   5   5   3          rows sorted by group, negatives first:  3: 4 1   5: 3 0 2
    label      0   1   1   0   0          a group's positives each meet its negatives:  (1, 4)  (2, 3)  (2, 0)
    """
    _, number_B = torch.unique(groups_B, return_inverse=True)
    positive_B = labels_B > 0.5
    order_B = (number_B * 2 + positive_B.long()).argsort(stable=True)
    sizes_G = torch.bincount(number_B)
    negatives_G = torch.bincount(number_B[~positive_B], minlength=len(sizes_G))
    starts_G = sizes_G.cumsum(0) - sizes_G
    of_positive = positive_B.nonzero().flatten()
    group_of_positive = number_B[of_positive]
    counts = negatives_G[group_of_positive]
    first = counts.cumsum(0) - counts
    place_N = torch.arange(int(counts.sum()), device=labels_B.device)
    place_N = place_N - first.repeat_interleave(counts) + starts_G[group_of_positive].repeat_interleave(counts)
    return of_positive.repeat_interleave(counts), order_B[place_N]


def mean_of_pairs(losses_N: Tensor, positive_N: Tensor, num_rows: int) -> Tensor:
    """Return for each row the mean of the losses of its pairs, [B]; 0 for a row that is no pair's positive."""
    sums_B = losses_N.new_zeros(num_rows).index_add(0, positive_N, losses_N)
    counts_B = losses_N.new_zeros(num_rows).index_add(0, positive_N, torch.ones_like(losses_N))
    return sums_B / counts_B.clamp(min=1)


def log_softmax(logits_B: Tensor, groups_B: Tensor) -> Tensor:
    """Return the log of each row's share of its group's softmax, [B]."""
    _, number_B = torch.unique(groups_B, return_inverse=True)
    num_groups = int(number_B.max()) + 1 if len(number_B) else 0
    # Shifted by the group's largest, so that no exponential overflows.
    largest_G = logits_B.detach().new_full((num_groups,), -torch.inf)
    largest_G = largest_G.scatter_reduce(0, number_B, logits_B.detach(), reduce="amax")
    shifted_B = logits_B - largest_G[number_B]
    sums_G = logits_B.new_zeros(num_groups).index_add(0, number_B, shifted_B.exp())
    return shifted_B - sums_G.log()[number_B]
