"""Expected calibration error: how far, bin by bin, predicted shares of positives are from actual ones.

Naeini et al. 2015, Obtaining Well Calibrated Probabilities Using Bayesian Binning (section 3).
"""

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from recsys_core.artifacts import ComponentConfig
from recsys_core.metrics.bootstrap import Resampled
from recsys_core.metrics.ranking import base


class Config(ComponentConfig):
    """The bins; those of equally many rows are the ones of an evaluation's calibration picture."""

    kind: Literal["expected_calibration_error"] = "expected_calibration_error"
    num_bins: int = Field(default=20, ge=1)
    bins: Literal["rows", "width"] = Field(
        default="rows", description="whether bins have equally many rows by rising prediction, or are equally wide"
    )


class Metric(base.Metric):
    """The sum over bins of |predicted - actual positives|, over all rows; by weight."""

    direction: ClassVar[base.Direction] = "down"

    def measure(self, scored: base.Scored) -> float | None:
        """See `base.Metric.measure`."""
        excess_B = scored.weights * (base.sigmoid(scored.logits) - scored.labels)
        off = np.abs(np.bincount(self._bins(scored), excess_B))
        return float(off.sum()) / float(scored.weights.sum())

    def resampled(self, scored: base.Scored, units: np.ndarray, num_units: int) -> Resampled:
        """See `base.Metric.resampled`; the bins are those of the rows themselves, whatever is drawn of them."""
        num_bins = self.config.num_bins
        excess_B = scored.weights * (base.sigmoid(scored.logits) - scored.labels)
        places_B = self._bins(scored) * num_units + units
        excess = np.bincount(places_B, excess_B, num_bins * num_units).reshape(num_bins, num_units)
        totals = scored.by_unit(units, num_units)

        def of_counts(counts_GR: np.ndarray) -> np.ndarray:
            total = totals @ counts_GR
            undefined = np.full(counts_GR.shape[1], np.nan)
            return np.divide(np.abs(excess @ counts_GR).sum(axis=0), total, out=undefined, where=total > 0)

        return of_counts

    def _bins(self, scored: base.Scored) -> np.ndarray:
        """Return the bin of each row, int64 [B]; rows of equal predictions may lie in two bins of equally many rows."""
        num_bins, num_rows = self.config.num_bins, len(scored.logits)
        if self.config.bins == "width":
            return np.minimum((base.sigmoid(scored.logits) * num_bins).astype(np.int64), num_bins - 1)
        bins_B = np.empty(num_rows, np.int64)
        bins_B[np.argsort(scored.logits, kind="stable")] = np.arange(num_rows) * num_bins // max(num_rows, 1)
        return bins_B
