"""GAUC: the mean of groups' AUCs by their weight of rows (Zhou et al. 2018, section 6.2)."""

from typing import ClassVar, Literal

import numpy as np

from recsys_core.artifacts import ComponentConfig
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


def gauc(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray, groups: np.ndarray) -> float | None:
    """Return the mean AUC of the groups that have both labels, by their weight of rows; None if none has."""
    values, shares = auc_by_group(scores, labels, weights, groups)
    return float(values @ shares / shares.sum()) if len(shares) else None
