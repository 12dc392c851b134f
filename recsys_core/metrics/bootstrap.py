"""The paired bootstrap: how much of the difference between two models on the same rows is chance.

Units (users, groups of rows, rows) are drawn with replacement, as many as there are, and both models are measured on
each draw; the interval of the difference is that of its percentiles (Efron and Tibshirani 1993, chapters 8 and 13). The
rows of one user are not independent of each other, so that all of them come with their unit.

A draw is a column of a matrix that says how often each unit was drawn, and a metric a function of such a matrix:
nothing is copied or sorted again. Legend: B rows, G units, R resamples.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from recsys_core.artifacts import Difference

if TYPE_CHECKING:
    from scipy import sparse

NUM_RESAMPLES = 1_000
FEWEST_UNITS = 20
_SEED = 0
_CELLS = 1 << 24  # 128 MiB of float64

Resampled = Callable[[np.ndarray], np.ndarray]
"""A metric of resamples: counts float64 [G, R] → float64 [R], NaN where it is undefined."""


def draws(num_units: int, num_resamples: int = NUM_RESAMPLES, seed: int = _SEED) -> Iterator[np.ndarray]:
    """Yield resamples as float64 [G, some of R], how often each unit is drawn; the same ones whenever it is called."""
    rng = np.random.default_rng(seed)
    width = min(num_resamples, max(1, _CELLS // num_units))
    for start in range(0, num_resamples, width):
        drawn = np.empty((min(width, num_resamples - start), num_units), np.uint32)
        for counts in drawn:
            counts[:] = np.bincount(rng.integers(num_units, size=num_units), minlength=num_units)
        yield drawn.T.astype(np.float64, order="C")


def differences(
    pairs: Mapping[str, tuple[Resampled, Resampled]], num_units: int, confidence: float
) -> dict[str, Difference]:
    """Return each metric of the one model minus that of the other, with the interval over the same draws for both.

    A metric that is undefined for either has no difference, and resamples in which it is (no positive was drawn) do
    not count. There is no interval with fewer than FEWEST_UNITS units: the few distinct resamples would seem certain.
    """
    once = np.ones((num_units, 1))
    values = {name: float((one(once) - other(once))[0]) for name, (one, other) in pairs.items()}
    defined = {name: pair for name, pair in pairs.items() if np.isfinite(values[name])}
    found: dict[str, list[np.ndarray]] = {name: [np.zeros(0)] for name in defined}
    for counts in draws(num_units) if defined and num_units >= FEWEST_UNITS else ():
        for name, (one, other) in defined.items():
            found[name].append(one(counts) - other(counts))
    return {name: _difference(values[name], np.concatenate(parts), confidence) for name, parts in found.items()}


def quotient(numerators: np.ndarray, denominators: np.ndarray) -> Resampled:
    """Return a metric that is the quotient of two sums over units, each [G]."""
    sums = np.stack([numerators, denominators], axis=1).astype(np.float64)

    def resampled(counts: np.ndarray) -> np.ndarray:
        numerator, denominator = sums.T @ counts
        return _divided(numerator, denominator)

    return resampled


class Auc:
    """The AUC of resamples, rows sorted once.

    Only the scores of positives divide the line; a negative counts for all positives above it, half for its equals:

        positives' scores    s0        s1        s2
        negatives         a       b   =s1    c        d      a counts from s0 on, b from s1 on, the equal one half from
                                                             s1 and wholly from s2 on, c from s2 on, d never

    so that the pairs won are the sum over positives of a running sum over negatives.
    """

    def __init__(
        self, scores: np.ndarray, labels: np.ndarray, weights: np.ndarray, units: np.ndarray, num_units: int
    ) -> None:
        """`scores`, `labels` (bool), `weights` and `units` (int, below `num_units`) are those of rows, each [B]."""
        # A config's gate imports this module, and scipy takes a while.
        from scipy import sparse

        steps = np.unique(scores[labels])
        at = np.searchsorted(steps, scores)
        equal = ~labels & (at < len(steps))
        equal[equal] = steps[at[equal]] == scores[equal]
        below = ~labels & ~equal

        def matrix(rows: list[np.ndarray], places: list[np.ndarray], shares: list[float]) -> "sparse.csr_array":
            values = np.concatenate([weights[chosen] * share for chosen, share in zip(rows, shares, strict=True)])
            columns = np.concatenate([units[chosen] for chosen in rows])
            # One row more, which no positive has: what starts there counts for none.
            shape = (len(steps) + 1, num_units)
            return sparse.csr_array((values, (np.concatenate(places), columns)), shape=shape)

        self._num_places = len(steps) + 1
        self._positives = matrix([labels], [at[labels]], [1.0])
        self._negatives = matrix([below, equal, equal], [at[below], at[equal], at[equal] + 1], [1.0, 0.5, 0.5])
        self._totals = np.stack([np.bincount(units, weights * wanted, num_units) for wanted in (labels, ~labels)])

    def __call__(self, counts: np.ndarray) -> np.ndarray:
        """Return the AUC of each resample."""
        won, before = np.zeros(counts.shape[1]), np.zeros(counts.shape[1])
        size = max(1, _CELLS // counts.shape[1])
        for start in range(0, self._num_places, size):
            rows = slice(start, start + size)
            running = np.cumsum(self._negatives[rows] @ counts, axis=0) + before
            won += ((self._positives[rows] @ counts) * running).sum(axis=0)
            before = running[-1]
        positive, negative = self._totals @ counts
        return _divided(won, positive * negative)


def _divided(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    undefined = np.full(len(numerator), np.nan)
    return np.divide(numerator, denominator, out=undefined, where=denominator > 0)


def _difference(value: float, resampled: np.ndarray, confidence: float) -> Difference:
    resampled = resampled[np.isfinite(resampled)]
    if not len(resampled):
        return Difference(value=value, low=None, high=None)
    tail = (1 - confidence) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return Difference(value=value, low=float(low), high=float(high))
