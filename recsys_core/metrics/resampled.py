"""Metrics of labelled rows as functions of a resample: see `bootstrap`. Legend: B rows, G units, R resamples."""

import numpy as np

from recsys_core.metrics.bootstrap import Auc, Resampled, quotient
from recsys_core.metrics.ranking import Scored, cross_entropy, sigmoid
from recsys_core.metrics.ranking._groups import auc_by_group


def resampled(rows: Scored, units: np.ndarray, num_units: int) -> dict[str, Resampled]:
    """Return each metric of `rows` by name; `units` are numbers below `num_units`, int [B].

    GAUC is among them where the units are the rows' groups.
    """
    logits, labels, weights, groups = rows

    def of_units(values: np.ndarray) -> np.ndarray:
        return np.bincount(units, weights * values, num_units)

    total, positive, loss = (of_units(v) for v in (np.ones(len(logits)), labels, cross_entropy(logits, labels)))
    found: dict[str, Resampled] = {
        "auc": Auc(logits, labels, weights, units, num_units),
        "logloss": quotient(loss, total),
        "normalized_entropy": _normalized_entropy(loss, positive, total),
        "calibration": quotient(of_units(sigmoid(logits)), positive),
        "accuracy": quotient(of_units((logits >= 0) == labels), total),
    }
    if groups is not None:
        values, shares = auc_by_group(logits, labels, weights, units)
        mixed = (positive > 0) & (total - positive > 0)
        by_unit = np.zeros((2, num_units))
        by_unit[:, mixed] = values * shares, shares
        found["gauc"] = quotient(*by_unit)
    return found


def _normalized_entropy(loss_G: np.ndarray, positive_G: np.ndarray, total_G: np.ndarray) -> Resampled:
    sums = np.stack([loss_G, positive_G, total_G])

    def of_counts(counts: np.ndarray) -> np.ndarray:
        loss, positive, total = sums @ counts
        with np.errstate(divide="ignore", invalid="ignore"):
            rate = positive / total
            entropy = -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate))
            return np.where((rate > 0) & (rate < 1), loss / total / entropy, np.nan)

    return of_counts
