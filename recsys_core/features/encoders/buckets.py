"""Buckets of numbers, by boundaries that are given or fitted."""

import numpy as np
import pyarrow as pa

from recsys_core.features import base
from recsys_core.features.columns.numbers import floats
from recsys_core.features.encoders.ranks import Ranks


class Buckets(base.Encoder):
    """The row of a number is how many boundaries are not above it."""

    def __init__(self, boundaries: tuple[float, ...]) -> None:
        """`boundaries` rise; they part the numbers into one bucket more than there are boundaries."""
        self.num_embeddings = len(boundaries) + 1
        self.spec = {"encoding": "boundaries", "boundaries": list(boundaries)}
        self._boundaries = np.array(boundaries)

    def encode(self, values: pa.Array) -> np.ndarray:
        """Return the bucket numbers; NaN counts as the largest number."""
        return np.searchsorted(self._boundaries, floats(values), side="right")

    @property
    def boundaries(self) -> np.ndarray:
        """float64, rising."""
        return self._boundaries

    def inside(self, before: base.Encoder) -> np.ndarray:
        """A bucket was inside of another one."""
        return _inside(self, before)


class FittedBuckets(base.Encoder):
    """Buckets whose boundaries are quantiles of the first fit; later fits leave them, and what the rows mean, alone."""

    def __init__(self, num_buckets: int) -> None:
        """There are as many rows as buckets."""
        self.num_embeddings = num_buckets
        self.spec = {"encoding": "quantiles", "num_buckets": num_buckets}
        self._ranks, self._boundaries = Ranks(), None

    def observe(self, values: pa.Array) -> None:
        """Count the numbers of one chunk."""
        if self._boundaries is None:
            self._ranks.add(floats(values))

    def settle(self) -> None:
        """Fix the boundaries."""
        if self._boundaries is None:
            self._boundaries = np.array(self._ranks.boundaries(self.num_embeddings))

    def encode(self, values: pa.Array) -> np.ndarray:
        """Return the bucket numbers; NaN counts as the largest number."""
        if self._boundaries is None:
            raise ValueError("the boundaries are not fitted yet; fit or load the feature engine first")
        return np.searchsorted(self._boundaries, floats(values), side="right")

    @property
    def fitted(self) -> bool | None:
        """Whether the boundaries are known."""
        return self._boundaries is not None

    def state(self) -> pa.Table | None:
        """The boundaries, rising."""
        return None if self._boundaries is None else pa.table({"boundary": pa.array(self._boundaries, pa.float64())})

    def restore(self, state: pa.Table) -> None:
        """Take over what `state` returned."""
        self._boundaries = state["boundary"].to_numpy()

    @property
    def boundaries(self) -> np.ndarray:
        """float64, rising; none before the first fit."""
        return np.empty(0) if self._boundaries is None else self._boundaries

    def inside(self, before: base.Encoder) -> np.ndarray:
        """A bucket was inside of another one."""
        return _inside(self, before)


def _inside(now: Buckets | FittedBuckets, before: base.Encoder) -> np.ndarray:
    """int64 [num_embeddings]: the bucket of `before` that all numbers of each bucket were in, -1: several, or none."""
    rows = np.full(now.num_embeddings, -1)
    if isinstance(before, Buckets | FittedBuckets):
        lows, highs = np.r_[-np.inf, now.boundaries], np.r_[now.boundaries, np.inf]
        found = np.searchsorted(before.boundaries, lows, side="right")
        rows[: len(lows)] = np.where(highs <= np.r_[before.boundaries, np.inf][found], found, -1)
    return rows
