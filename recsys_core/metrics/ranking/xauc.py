"""XAUC: the AUC of values, the share of pairs of rows that are ordered as their labels are.

Zhan et al. 2022, Deconfounding Duration Bias in Watch-time Prediction for Video Recommendation (section 4.1). Exact,
over all pairs of rows whose labels differ. Legend: B rows, R resamples.
"""

from typing import ClassVar, Literal, NamedTuple

import numpy as np

from recsys_core.artifacts import ComponentConfig
from recsys_core.metrics.bootstrap import Resampled
from recsys_core.metrics.ranking import base


class Config(ComponentConfig):
    """There is nothing to choose."""

    kind: Literal["xauc"] = "xauc"


class Metric(base.Metric):
    """Equal predictions count half, and a pair the product of its rows' weights; None where all labels are the same."""

    direction: ClassVar[base.Direction] = "up"
    measures: ClassVar[Literal["labels", "values", "both"]] = "values"

    def measure(self, scored: base.Scored) -> float | None:
        """See `base.Metric.measure`."""
        value = _Pairs(scored.logits, scored.labels).share(scored.weights)
        return None if np.isnan(value) else value

    def resampled(self, scored: base.Scored, units: np.ndarray, num_units: int) -> Resampled:
        """See `base.Metric.resampled`: rows are sorted once."""
        pairs = _Pairs(scored.logits, scored.labels)

        def of_counts(counts_GR: np.ndarray) -> np.ndarray:
            assert len(counts_GR) == num_units
            return np.array([pairs.share(scored.weights * counts_G[units]) for counts_G in counts_GR.T])

        return of_counts


class _Level(NamedTuple):
    """One merge of a sort: rows by block and prediction; which are of a block's upper half, and where runs start.

    A run is of one block and one prediction.
    """

    order: np.ndarray
    is_upper: np.ndarray
    run_of: np.ndarray
    first_of_run: np.ndarray
    first_of_block: np.ndarray


class _Pairs:
    """Pairs of rows by label and prediction, counted as a merge sort by label counts inversions.

    Sorted by label, each pair meets in one block of one level, the lower label in its lower half:

        level 1    (0 1) (2 3) (4 5) (6 7)     level 2    (0 1 | 2 3) (4 5 | 6 7)     level 3    (0 1 2 3 | 4 5 6 7)
    """

    def __init__(self, predicted: np.ndarray, labels: np.ndarray) -> None:
        self._sorted = np.lexsort((predicted, labels))
        ranks = np.unique(predicted[self._sorted], return_inverse=True)[1]
        # Pairs of one label are counted too, and taken off again; within it they stand by prediction.
        label = np.unique(labels[self._sorted], return_inverse=True)[1]
        self._labels = np.flatnonzero(np.diff(label, prepend=-1))
        same = (np.diff(label, prepend=-1) != 0) | (np.diff(ranks, prepend=-1) != 0)
        self._runs = np.flatnonzero(same)
        places, self._levels = np.arange(len(ranks)), list[_Level]()
        size = 1
        while size < len(ranks):
            blocks = places // (2 * size)
            order = np.lexsort((ranks, blocks))
            new_block = np.diff(blocks[order], prepend=-1) != 0
            new_run = new_block | (np.diff(ranks[order], prepend=-1) != 0)
            first_of_run, run_of = np.flatnonzero(new_run), np.cumsum(new_run) - 1
            starts = np.flatnonzero(new_block)
            first_of_block = starts[np.cumsum(new_block) - 1]
            self._levels.append(_Level(order, (order // size) % 2 == 1, run_of, first_of_run, first_of_block))
            size *= 2

    def share(self, weights: np.ndarray) -> float:
        """Return the share of weighted pairs of different labels that are ordered alike; NaN where there are none."""
        weights = weights[self._sorted].astype(np.float64)
        if not len(weights):
            return float("nan")
        of_labels = _pairs_within(weights, self._labels)
        won = -(of_labels - _pairs_within(weights, self._runs) / 2)
        for level in self._levels:
            own = weights[level.order]
            lower = np.where(level.is_upper, 0.0, own)
            before = np.cumsum(lower) - lower
            of_run = np.add.reduceat(lower, level.first_of_run)[level.run_of]
            below = before[level.first_of_run][level.run_of] - before[level.first_of_block]
            won += float(np.where(level.is_upper, own, 0.0) @ (below + of_run / 2))
        total = _pairs_within(weights, np.zeros(1, np.int64)) - of_labels
        return won / total if total > 0 else float("nan")


def _pairs_within(weights: np.ndarray, starts: np.ndarray) -> float:
    """Return the sum over the parts that begin at `starts` of the products of their pairs' weights."""
    sums, squares = np.add.reduceat(weights, starts), np.add.reduceat(weights**2, starts)
    return float((sums**2 - squares).sum()) / 2
