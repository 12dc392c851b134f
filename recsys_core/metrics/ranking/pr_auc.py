"""PR-AUC: the area under the precision-recall curve, as average precision; of use where positives are rare.

Davis and Goadrich 2006, The Relationship Between Precision-Recall and ROC Curves: between points the curve is no line,
so what is summed is the precision at each recall that is reached.
"""

from typing import ClassVar, Literal

import numpy as np

from recsys_core.artifacts import ComponentConfig
from recsys_core.metrics.bootstrap import Resampled
from recsys_core.metrics.ranking import base


class Config(ComponentConfig):
    """There is nothing to choose."""

    kind: Literal["pr_auc"] = "pr_auc"


class Metric(base.Metric):
    """The mean over positive rows of the precision among the rows that score as high; None without positives.

    Rows of equal scores come together. Always predicting the same has the share of positives.
    """

    direction: ClassVar[base.Direction] = "up"

    def measure(self, scored: base.Scored) -> float | None:
        """See `base.Metric.measure`."""
        order = np.argsort(-scored.logits, kind="stable")
        value = _average_precision(scored.weights[order], scored.labels[order], _ends(scored.logits[order]))
        return None if np.isnan(value) else value

    def resampled(self, scored: base.Scored, units: np.ndarray, num_units: int) -> Resampled:
        """See `base.Metric.resampled`: rows are sorted once."""
        order = np.argsort(-scored.logits, kind="stable")
        weights, labels, units_B = scored.weights[order], scored.labels[order], units[order]
        ends = _ends(scored.logits[order])

        def of_counts(counts_GR: np.ndarray) -> np.ndarray:
            assert len(counts_GR) == num_units
            return np.array([_average_precision(weights * counts_G[units_B], labels, ends) for counts_G in counts_GR.T])

        return of_counts


def _ends(sorted_B: np.ndarray) -> np.ndarray:
    """Return the place of the last row of each run of equal scores."""
    return np.append(np.flatnonzero(np.diff(sorted_B)), len(sorted_B) - 1)


def _average_precision(weights: np.ndarray, labels: np.ndarray, ends: np.ndarray) -> float:
    """Return that of rows sorted by falling score; NaN without positives."""
    every, positive = np.cumsum(weights)[ends], np.cumsum(weights * labels)[ends]
    if not positive[-1]:
        return float("nan")
    gained = np.diff(positive, prepend=0)
    precision = np.divide(positive, every, out=np.zeros(len(ends)), where=every > 0)
    return float(gained @ precision / positive[-1])
