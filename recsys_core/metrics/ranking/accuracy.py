"""Accuracy: the share of rows whose label is what a probability of at least .5 predicts."""

from typing import ClassVar, Literal

import numpy as np

from recsys_core.artifacts import ComponentConfig
from recsys_core.metrics.bootstrap import Resampled, quotient
from recsys_core.metrics.ranking import base


class Config(ComponentConfig):
    """There is nothing to choose."""

    kind: Literal["accuracy"] = "accuracy"


class Metric(base.Metric):
    """By weight."""

    direction: ClassVar[base.Direction] = "up"

    def measure(self, scored: base.Scored) -> float | None:
        """See `base.Metric.measure`."""
        right_B = (scored.logits >= 0) == scored.labels
        return float(scored.weights @ right_B) / float(scored.weights.sum())

    def resampled(self, scored: base.Scored, units: np.ndarray, num_units: int) -> Resampled:
        """See `base.Metric.resampled`."""
        right = scored.by_unit(units, num_units, (scored.logits >= 0) == scored.labels)
        return quotient(right, scored.by_unit(units, num_units))
