"""Logloss: the mean binary cross-entropy in nats."""

from typing import ClassVar, Literal

import numpy as np

from recsys_core.artifacts import ComponentConfig
from recsys_core.metrics.bootstrap import Resampled, quotient
from recsys_core.metrics.ranking import base


class Config(ComponentConfig):
    """There is nothing to choose."""

    kind: Literal["logloss"] = "logloss"


class Metric(base.Metric):
    """The weighted mean of -log of the probability that was given to the label."""

    direction: ClassVar[base.Direction] = "down"

    def measure(self, scored: base.Scored) -> float:
        """See `base.Metric.measure`."""
        losses_B = base.cross_entropy(scored.logits, scored.labels)
        return float(scored.weights @ losses_B) / float(scored.weights.sum())

    def resampled(self, scored: base.Scored, units: np.ndarray, num_units: int) -> Resampled:
        """See `base.Metric.resampled`."""
        losses_B = base.cross_entropy(scored.logits, scored.labels)
        return quotient(scored.by_unit(units, num_units, losses_B), scored.by_unit(units, num_units))
