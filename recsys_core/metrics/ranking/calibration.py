"""Calibration: predicted positives over actual ones, or the sum of predicted values over that of the labels."""

from typing import ClassVar, Literal

import numpy as np

from recsys_core.artifacts import ComponentConfig
from recsys_core.metrics.bootstrap import Resampled, quotient
from recsys_core.metrics.ranking import base


class Config(ComponentConfig):
    """There is nothing to choose."""

    kind: Literal["calibration"] = "calibration"


class Metric(base.Metric):
    """Above 1 the model promises more than comes; None without positives."""

    direction: ClassVar[base.Direction] = "one"
    measures: ClassVar[Literal["labels", "values", "both"]] = "both"

    def measure(self, scored: base.Scored) -> float | None:
        """See `base.Metric.measure`."""
        positive = float(scored.weights @ scored.labels)
        return float(scored.weights @ scored.predicted) / positive if positive else None

    def resampled(self, scored: base.Scored, units: np.ndarray, num_units: int) -> Resampled:
        """See `base.Metric.resampled`."""
        predicted = scored.by_unit(units, num_units, scored.predicted)
        return quotient(predicted, scored.by_unit(units, num_units, scored.labels))
