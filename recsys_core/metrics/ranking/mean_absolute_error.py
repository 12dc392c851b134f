"""Mean absolute error of what is predicted; of probabilities it is what share of certainty is missing."""

from typing import ClassVar, Literal

import numpy as np

from recsys_core.artifacts import ComponentConfig
from recsys_core.metrics.bootstrap import Resampled, quotient
from recsys_core.metrics.ranking import base


class Config(ComponentConfig):
    """There is nothing to choose."""

    kind: Literal["mean_absolute_error"] = "mean_absolute_error"


class Metric(base.Metric):
    """The weighted mean of |p - y|, p being the probability or the value."""

    direction: ClassVar[base.Direction] = "down"
    measures: ClassVar[Literal["labels", "values", "both"]] = "both"

    def measure(self, scored: base.Scored) -> float | None:
        """See `base.Metric.measure`."""
        return float(scored.weights @ _distances(scored)) / float(scored.weights.sum())

    def resampled(self, scored: base.Scored, units: np.ndarray, num_units: int) -> Resampled:
        """See `base.Metric.resampled`."""
        return quotient(scored.by_unit(units, num_units, _distances(scored)), scored.by_unit(units, num_units))


def _distances(scored: base.Scored) -> np.ndarray:
    return np.abs(scored.predicted - scored.labels)
