"""GAUC: the mean of groups' AUCs by their weight of rows (Zhou et al. 2018, section 6.2)."""

from typing import ClassVar, Literal

import numpy as np

from recsys_core.artifacts import ComponentConfig
from recsys_core.metrics.bootstrap import Resampled, quotient
from recsys_core.metrics.ranking import base
from recsys_core.metrics.ranking._groups import auc_by_group


class Config(ComponentConfig):
    """There is nothing to choose."""

    kind: Literal["gauc"] = "gauc"


class Metric(base.Metric):
    """Over the groups that have both labels; None without groups."""

    direction: ClassVar[base.Direction] = "up"

    def measure(self, scored: base.Scored) -> float | None:
        """See `base.Metric.measure`."""
        if scored.groups is None:
            return None
        return gauc(scored.logits, scored.labels, scored.weights, scored.groups)

    def resampled(self, scored: base.Scored, units: np.ndarray, num_units: int) -> Resampled:
        """See `base.Metric.resampled`."""
        by_unit = np.zeros((2, num_units))
        if scored.groups is not None:
            _, numbers = np.unique(scored.groups, return_inverse=True)
            unit_of_group = np.zeros(numbers.max(initial=-1) + 1, np.int64)
            unit_of_group[numbers] = units
            negative, positive = (
                np.bincount(numbers, scored.weights * (scored.labels == one)) for one in (False, True)
            )
            mixed = unit_of_group[(positive > 0) & (negative > 0)]
            values, shares = auc_by_group(scored.logits, scored.labels, scored.weights, numbers)
            by_unit[0] = np.bincount(mixed, values * shares, num_units)
            by_unit[1] = np.bincount(mixed, shares, num_units)
        return quotient(*by_unit)


def gauc(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray, groups: np.ndarray) -> float | None:
    """Return the mean AUC of the groups that have both labels, by their weight of rows; None if none has."""
    values, shares = auc_by_group(scores, labels, weights, groups)
    return float(values @ shares / shares.sum()) if len(shares) else None
