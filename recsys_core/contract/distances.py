"""How far two distributions over the same bins are apart.

Legend: K bins. Half a count is added to every bin (Jeffreys' prior), so that an empty one costs much but not infinity.
"""

import numpy as np


def population_stability_index(expected: np.ndarray, actual: np.ndarray) -> float:
    """Return the sum over bins of (p - q) ln(p / q), in nats, of counts [K] and [K]; 0.1 is small, 0.25 is large.

    It is Jeffreys' divergence (Jeffreys 1946); the name and the rule of thumb are credit scoring's (Siddiqi 2006).
    """
    p, q = _shares(actual), _shares(expected)
    return float(np.sum((p - q) * np.log(p / q)))


def jensen_shannon(expected: np.ndarray, actual: np.ndarray) -> float:
    """Return the Jensen-Shannon divergence (Lin 1991) of counts [K] and [K], in bits: from 0, equal, to 1."""
    p, q = _shares(actual), _shares(expected)
    middle = (p + q) / 2
    return float((np.sum(p * np.log2(p / middle)) + np.sum(q * np.log2(q / middle))) / 2)


def _shares(counts: np.ndarray) -> np.ndarray:
    smoothed = counts + 0.5
    return smoothed / smoothed.sum()
