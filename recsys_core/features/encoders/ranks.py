"""How many numbers lie below a number: what quantile boundaries and the quantile normaliser are fitted with.

Every distinct number is counted until there are too many; then neighbours are counted together. The order in which the
numbers come, and how they are cut into chunks, changes nothing. Legend: N numbers that are added together.
"""

from typing import Any, Self

import numpy as np

_MAX_DISTINCT = 8_192


class Ranks:
    """Counts of numbers by value, exact up to `_MAX_DISTINCT` of them; beyond that by value but for its last bits."""

    def __init__(self) -> None:
        """Start without numbers."""
        self._keys, self._counts, self._bits = np.empty(0, np.int64), np.empty(0, np.int64), 0

    def add(self, numbers: np.ndarray) -> None:
        """Take float64 [N], NaN left out."""
        keys, counts = np.unique(self._key(numbers[~np.isnan(numbers)]), return_counts=True)
        self._merge(np.concatenate([self._keys, keys]), np.concatenate([self._counts, counts]))
        while len(self._keys) > _MAX_DISTINCT:
            self._bits += 1
            self._merge(self._keys >> self._bits << self._bits, self._counts)

    def boundaries(self, num_buckets: int) -> list[float]:
        """Return rising numbers that part those seen into `num_buckets` of about equal size; fewer if many are equal.

        The boundary k is the number at place ⌊k · count / num_buckets⌋ of the sorted ones, counted from 0.
        """
        if not len(self._keys):
            return []
        places = np.arange(1, num_buckets) * int(self._counts.sum()) // num_buckets
        cut = np.searchsorted(np.cumsum(self._counts), places, side="right")
        return np.unique(_number(self._keys[cut])).tolist()

    def share_below(self, numbers: np.ndarray) -> np.ndarray:
        """float64, as `numbers`: the share of what was seen that is less, and half of what is equal; NaN for NaN."""
        ends = np.concatenate([[0], np.cumsum(self._counts)])
        keys = self._key(np.where(np.isnan(numbers), 0.0, numbers))
        below = ends[np.searchsorted(self._keys, keys, side="left")]
        up_to = ends[np.searchsorted(self._keys, keys, side="right")]
        return np.where(np.isnan(numbers), np.nan, (below + up_to) / (2 * max(int(ends[-1]), 1)))

    def to_json(self) -> dict[str, Any]:
        """Return everything that was learnt; keys are kept as differences, which are short."""
        return {
            "bits": self._bits,
            "keys": np.diff(self._keys >> self._bits, prepend=np.int64(0)).tolist(),
            "counts": self._counts.tolist(),
        }

    @classmethod
    def from_json(cls, state: dict[str, Any]) -> Self:
        """Read `to_json` back."""
        ranks = cls()
        ranks._bits = state["bits"]
        ranks._keys = np.cumsum(np.array(state["keys"], np.int64)) << ranks._bits
        ranks._counts = np.array(state["counts"], np.int64)
        return ranks

    def _key(self, numbers: np.ndarray) -> np.ndarray:
        # A float's bits as an integer are in the order of the numbers, once the negative ones are turned around.
        bits = (numbers + 0.0).view(np.int64)
        return (bits ^ ((bits >> 63) & np.int64(0x7FFFFFFFFFFFFFFF))) >> self._bits << self._bits

    def _merge(self, keys: np.ndarray, counts: np.ndarray) -> None:
        self._keys, places = np.unique(keys, return_inverse=True)
        self._counts = np.bincount(places, counts, len(self._keys)).astype(np.int64)


def _number(keys: np.ndarray) -> np.ndarray:
    return (keys ^ ((keys >> 63) & np.int64(0x7FFFFFFFFFFFFFFF))).view(np.float64)
