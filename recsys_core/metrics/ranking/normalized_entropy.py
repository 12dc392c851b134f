"""Normalised entropy: logloss over that of always predicting the share of positives (He et al. 2014, section 3)."""

from typing import ClassVar, Literal

import numpy as np

from recsys_core.artifacts import ComponentConfig
from recsys_core.metrics.bootstrap import Resampled
from recsys_core.metrics.ranking import base, logloss


class Config(ComponentConfig):
    """There is nothing to choose."""

    kind: Literal["normalized_entropy"] = "normalized_entropy"


class Metric(base.Metric):
    """Below 1 is better than knowing no row; None for rows of one label."""

    direction: ClassVar[base.Direction] = "down"

    def measure(self, scored: base.Scored) -> float | None:
        """See `base.Metric.measure`."""
        rate = float(scored.weights @ scored.labels) / float(scored.weights.sum())
        if not 0 < rate < 1:
            return None
        loss = logloss.Metric(logloss.Config()).measure(scored)
        return loss / float(-(rate * np.log(rate) + (1 - rate) * np.log(1 - rate)))

    def resampled(self, scored: base.Scored, units: np.ndarray, num_units: int) -> Resampled:
        """See `base.Metric.resampled`."""
        losses_B = base.cross_entropy(scored.logits, scored.labels)
        values = (losses_B, scored.labels, None)
        sums = np.stack([scored.by_unit(units, num_units, value) for value in values])

        def of_counts(counts_GR: np.ndarray) -> np.ndarray:
            loss, positive, total = sums @ counts_GR
            with np.errstate(divide="ignore", invalid="ignore"):
                rate = positive / total
                entropy = -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate))
                return np.where((rate > 0) & (rate < 1), loss / total / entropy, np.nan)

        return of_counts
