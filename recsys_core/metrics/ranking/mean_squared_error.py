"""Mean squared error of what is predicted; of probabilities it is the Brier score (Brier 1950)."""

from typing import ClassVar, Literal

import numpy as np

from recsys_core.artifacts import ComponentConfig
from recsys_core.metrics.bootstrap import Resampled, quotient
from recsys_core.metrics.ranking import base


class Config(ComponentConfig):
    """There is nothing to choose."""

    kind: Literal["mean_squared_error"] = "mean_squared_error"


class Metric(base.Metric):
    """The weighted mean of (p - y)², p being the probability or the value."""

    direction: ClassVar[base.Direction] = "down"
    measures: ClassVar[Literal["labels", "values", "both"]] = "both"

    def measure(self, scored: base.Scored) -> float | None:
        """See `base.Metric.measure`."""
        return float(scored.weights @ _squares(scored)) / float(scored.weights.sum())

    def resampled(self, scored: base.Scored, units: np.ndarray, num_units: int) -> Resampled:
        """See `base.Metric.resampled`."""
        return quotient(scored.by_unit(units, num_units, _squares(scored)), scored.by_unit(units, num_units))


def _squares(scored: base.Scored) -> np.ndarray:
    return (scored.predicted - scored.labels) ** 2
