"""Metrics of scored and labelled rows, exact over any number of batches and ranks.

Rows are kept (score, label, weight, group) and counted once at the end: a sum of per-batch AUCs is not an AUC, and
neither is one from a histogram of scores. Legend: B rows.
"""

from typing import NamedTuple, Self

import numpy as np

from recsys_core.artifacts import LabelledMetrics


class Scored(NamedTuple):
    """Rows with their logits float64 [B], labels bool [B], weights float64 [B], and group numbers int64 [B] if any."""

    logits: np.ndarray
    labels: np.ndarray
    weights: np.ndarray
    groups: np.ndarray | None

    @classmethod
    def joined(cls, parts: "list[Scored]") -> Self:
        """Return all rows of all parts (of batches, of ranks)."""
        columns = zip(*parts, strict=True)
        logits, labels, weights, groups = (None if c[0] is None else np.concatenate(c) for c in columns)
        assert logits is not None
        assert labels is not None
        assert weights is not None
        return cls(logits, labels, weights, groups)

    def metrics(self) -> LabelledMetrics:
        """Measure the rows.

        Raises:
            ValueError: there are none, or they weigh nothing together.
        """
        total, positive = float(self.weights.sum()), float(self.weights @ self.labels)
        if not total:
            raise ValueError(f"{len(self.logits)} rows with a total weight of 0: there is nothing to measure")
        loss = float(self.weights @ cross_entropy(self.logits, self.labels)) / total
        rate = positive / total
        mixed = 0 < rate < 1
        predicted = float(self.weights @ sigmoid(self.logits))
        return LabelledMetrics(
            num_rows=len(self.logits),
            num_positives=int(self.labels.sum()),
            auc=auc(self.logits, self.labels, self.weights),
            gauc=None if self.groups is None else gauc(self.logits, self.labels, self.weights, self.groups),
            logloss=loss,
            normalized_entropy=loss / -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate)) if mixed else None,
            calibration=predicted / positive if positive else None,
            accuracy=float(self.weights @ ((self.logits >= 0) == self.labels)) / total,
        )


def roc(scored: Scored, num_points: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Return false and true positive rates along the ROC curve, from (0, 0) to (1, 1), for a picture."""
    order = np.argsort(-scored.logits, kind="stable")
    positive, negative = (
        np.cumsum(scored.weights[order] * wanted[order]) for wanted in (scored.labels, ~scored.labels)
    )
    ends = np.append(np.flatnonzero(np.diff(scored.logits[order])), len(order) - 1)
    ends = ends[np.unique(np.linspace(0, len(ends) - 1, num_points).round().astype(int))]
    rates = [np.append(0, sums[ends] / max(sums[-1], np.finfo(float).tiny)) for sums in (negative, positive)]
    return rates[0], rates[1]


def calibration(scored: Scored, num_bins: int = 20) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return mean prediction, share of positives, and rows, of bins with equally many rows by rising prediction."""
    order = np.argsort(scored.logits, kind="stable")
    bins = [part for part in np.array_split(order, num_bins) if scored.weights[part].sum() > 0]
    predicted = sigmoid(scored.logits)
    means = [
        np.array([np.average(v[part], weights=scored.weights[part]) for part in bins])
        for v in (predicted, scored.labels)
    ]
    return means[0], means[1], np.array([len(part) for part in bins])


def auc(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> float | None:
    """Return the exact AUC, ties half; None unless there are both labels with weight."""
    values, shares = _auc_by_group(scores, labels, weights, np.zeros(len(scores), np.int64))
    return float(values[0]) if len(shares) else None


def gauc(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray, groups: np.ndarray) -> float | None:
    """Return the mean AUC of the groups that have both labels, by their weight of rows; None if none has."""
    values, shares = _auc_by_group(scores, labels, weights, groups)
    return float(values @ shares / shares.sum()) if len(shares) else None


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return each row's loss [B] in nats."""
    return np.logaddexp(0, np.where(labels, -logits, logits))


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Return the probabilities [B], without overflow."""
    return np.exp(-np.logaddexp(0, -logits))


def _auc_by_group(
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
