"""The AUC of each group of rows, all at once. Legend: B rows."""

import numpy as np


def auc_by_group(
    scores: np.ndarray, labels: np.ndarray, weights: np.ndarray, groups: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return AUC and total weight of each group with both labels, groups in rising order.

    group     0           0           0      1 ...     rows sorted by group, then score
    score     .1          .4          .4     .2
    run       0           1           1      2         equal scores of a group are one run
    below     negatives of the group in earlier runs + half of those in the own run
    """
    if not len(scores):
        return np.zeros(0), np.zeros(0)
    order = np.lexsort((scores, groups))
    scores, labels, weights, groups = scores[order], labels[order], weights[order], groups[order]
    new_group = np.append(True, groups[1:] != groups[:-1])
    new_run = new_group | np.append(True, scores[1:] != scores[:-1])
    runs = np.flatnonzero(new_run)
    positive = np.add.reduceat(weights * labels, runs)
    negative = np.add.reduceat(weights * ~labels, runs)
    starts = np.searchsorted(runs, np.flatnonzero(new_group))
    negatives_of_group = np.add.reduceat(negative, starts)
    positives_of_group = np.add.reduceat(positive, starts)
    before_group = np.repeat(np.cumsum(negatives_of_group) - negatives_of_group, np.diff(np.append(starts, len(runs))))
    below = np.cumsum(negative) - negative - before_group + negative / 2
    won = np.add.reduceat(positive * below, starts)
    mixed = (positives_of_group > 0) & (negatives_of_group > 0)
    pairs = positives_of_group[mixed] * negatives_of_group[mixed]
    return won[mixed] / pairs, (positives_of_group + negatives_of_group)[mixed]
