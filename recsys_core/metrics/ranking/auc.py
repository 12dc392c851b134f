"""AUC: the area under the ROC curve, exact."""

from typing import ClassVar, Literal

import numpy as np

from recsys_core.artifacts import ComponentConfig
from recsys_core.metrics.bootstrap import Auc, Resampled
from recsys_core.metrics.ranking import base
from recsys_core.metrics.ranking._groups import auc_by_group


class Config(ComponentConfig):
    """There is nothing to choose."""

    kind: Literal["auc"] = "auc"


class Metric(base.Metric):
    """The share of pairs (positive, negative) in which the positive scores higher, ties half; see `LabelledMetrics`."""

    direction: ClassVar[base.Direction] = "up"

    def measure(self, scored: base.Scored) -> float | None:
        """See `base.Metric.measure`."""
        return auc(scored.logits, scored.labels, scored.weights)

    def resampled(self, scored: base.Scored, units: np.ndarray, num_units: int) -> Resampled:
        """See `base.Metric.resampled`."""
        return Auc(scored.logits, scored.labels, scored.weights, units, num_units)


def auc(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> float | None:
    """Return the exact AUC, ties half; None unless there are both labels with weight."""
    values, shares = auc_by_group(scores, labels, weights, np.zeros(len(scores), np.int64))
    return float(values[0]) if len(shares) else None
