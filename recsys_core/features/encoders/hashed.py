"""Encodings `hash` and `multi_hash`: rows by the hash of an id."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from recsys_core.features import base, hashing


class MultiHash(base.Encoder):
    """An id has k rows, one in each part of the table, so that two ids rarely share all of them.

    Part i has num_buckets[i] rows, and an integer's row in it is the remainder, a text's its hash's: with buckets that
    have no common divisor this is the quotient-remainder family of Shi et al. 2020, Compositional Embeddings.
    """

    def __init__(self, num_buckets: tuple[int, ...], function: hashing.Name) -> None:
        """`num_buckets` are the sizes of the parts."""
        self._num_buckets = num_buckets
        self._function: hashing.Name = function
        self.num_embeddings = sum(num_buckets)
        self.spec = {"encoding": "multi_hash", "hash": function, "num_buckets": list(num_buckets)}

    def encode(self, values: pa.Array) -> np.ndarray:
        """int64 [N * k]: the k rows of each value, one after another."""
        if pa.types.is_integer(values.type):
            hashes = values.to_numpy(zero_copy_only=False)
            parts = [hashes % size for size in self._num_buckets]
        else:
            hashes = hashing.hashed(values, self._function)
            parts = [hashing.remainder(hashes, size) for size in self._num_buckets]
        first = np.cumsum(self._num_buckets) - self._num_buckets
        return (np.stack(parts, axis=1) + first).reshape(-1)

    def rows(self, values: pa.Array, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Each bag has k rows per value."""
        return self.encode(values), (lengths * len(self._num_buckets)).astype(np.int32)

    def inside(self, before: base.Encoder) -> np.ndarray:
        """Part by part as a hash."""
        alike = isinstance(before, MultiHash) and before.spec["hash"] == self._function
        old: list[int] = before.spec["num_buckets"] if alike else []
        parts: list[np.ndarray] = []
        for part, size in enumerate(self._num_buckets):
            rows = _of_remainders(size, old[part] if part < len(old) else None)
            parts.append(np.where(rows < 0, rows, rows + sum(old[:part])))
        return np.concatenate(parts)


class Hash(base.Encoder):
    """An id's row is the hash of its text (decimal for integers) modulo the table's size; see `hashing`."""

    first_id_row = 0

    def __init__(self, num_embeddings: int, function: hashing.Name = "xxh3") -> None:
        """`num_embeddings` is the number of buckets."""
        self.num_embeddings = num_embeddings
        self.spec = {"encoding": "hash", "hash": function, "num_embeddings": num_embeddings}
        self._function: hashing.Name = function
        self.family = f"hash {function}"

    @classmethod
    def encode_each(cls, encoders: Sequence[base.Encoder], columns: Sequence[pa.Array]) -> list[np.ndarray]:
        """Hash all columns in one call."""
        sizes = [encoder.num_embeddings for encoder in encoders]
        return hashing.buckets_of_each(columns, encoders[0].spec["hash"], sizes)

    def encode(self, values: pa.Array) -> np.ndarray:
        """Return the buckets."""
        return hashing.buckets(values, self._function, self.num_embeddings)

    def own_rows(self, ids: pa.Array) -> np.ndarray:
        """The buckets."""
        return self.encode(ids)

    def inside(self, before: base.Encoder) -> np.ndarray:
        """Ids of one bucket of k · n were in one of n: that of its remainder."""
        alike = isinstance(before, Hash) and before.spec["hash"] == self._function
        return _of_remainders(self.num_embeddings, before.num_embeddings if alike else None)


def _of_remainders(size: int, before: int | None) -> np.ndarray:
    """int64 [size]: which of `before` remainders those of `size` were; -1 unless these divide `size`."""
    if not before or size % before:
        return np.full(size, -1)
    return np.arange(size) % before
