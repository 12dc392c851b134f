"""Numbers for Criteo's categories: rows of an embedding table.

0 stands for a field that is missing and 1 for a value that is not known. The values follow from 2: in a vocabulary by
how often they occur, the most frequent first, and of equally frequent ones the smaller first; or by a hash.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recsys_core import folders
from recsys_core.datasets.labelled._criteo_text import from_hexadecimal, hexadecimal

MISSING, UNKNOWN, FIRST = 0, 1, 2


class Counts(NamedTuple):
    """Values that occur, uint32 [V], ascending, and how often each does, int64 [V]."""

    values: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, column: pa.DictionaryArray) -> "Counts":
        """Count a column's values."""
        indices = column.indices.drop_null().to_numpy()
        values = column.dictionary.to_numpy()
        counts = np.bincount(indices, minlength=len(values))
        there = np.flatnonzero(counts)
        order = there[np.argsort(values[there])]
        return cls(values[order], counts[order])

    @classmethod
    def merged(cls, parts: "Iterable[Counts]") -> "Counts":
        """Add up counts of several parts."""
        parts = [*parts]
        values = np.concatenate([part.values for part in parts])
        counts = np.concatenate([part.counts for part in parts])
        order = np.argsort(values, kind="stable")
        values, counts = values[order], counts[order]
        starts = np.flatnonzero(np.diff(values, prepend=values[:1] ^ 1)) if len(values) else np.zeros(0, np.intp)
        return cls(values[starts], np.add.reduceat(counts, starts) if len(starts) else counts[:0])


class Growing:
    """Counts of parts that come one after another; memory holds each value twice at most, and what one part has."""

    _FEWEST = 1 << 16

    def __init__(self) -> None:
        """Start without values."""
        empty = Counts(np.zeros(0, np.uint32), np.zeros(0, np.int64))
        self._whole, self._waiting, self._num_waiting = empty, list[Counts](), 0

    def add(self, part: Counts) -> None:
        """Take note of a part's counts."""
        self._waiting.append(part)
        self._num_waiting += len(part.values)
        if self._num_waiting > max(self._FEWEST, len(self._whole.values)):
            self.total()

    def total(self) -> Counts:
        """Return the counts of all parts so far."""
        self._whole, self._waiting, self._num_waiting = Counts.merged([self._whole, *self._waiting]), [], 0
        return self._whole


class Vocabulary:
    """The values that have a number of their own."""

    def __init__(self, values: np.ndarray, counts: np.ndarray) -> None:
        """`values[i]`, uint32 [V], has number `FIRST + i` and occurred `counts[i]` times."""
        self.values, self.counts = values, counts
        self._order = np.argsort(values)
        self._sorted = values[self._order]

    @classmethod
    def of(cls, found: Counts, min_count: int, known: "Vocabulary | None" = None) -> "Vocabulary":
        """Give numbers to what occurs at least `min_count` times, behind those that are `known`, which keep theirs."""
        kept = found.counts >= min_count
        if known is not None:
            kept &= ~np.isin(found.values, known.values)
        values, counts = found.values[kept], found.counts[kept]
        order = np.argsort(-counts, kind="stable")
        values, counts = values[order], counts[order]
        if known is not None:
            values, counts = np.concatenate([known.values, values]), np.concatenate([known.counts, counts])
        return cls(values, counts)

    @property
    def num_embeddings(self) -> int:
        """The rows of a table that has one for each number."""
        return FIRST + len(self.values)

    def ids(self, values: np.ndarray) -> np.ndarray:
        """Return the numbers of `values`, uint32 [N], as int32 [N]."""
        found = np.full(len(values), UNKNOWN, np.int32)
        if len(self._sorted):
            at = np.minimum(np.searchsorted(self._sorted, values), len(self._sorted) - 1)
            known = self._sorted[at] == values
            found[known] = FIRST + self._order[at[known]]
        return found

    def save(self, path: Path) -> None:
        """Write columns value (the eight hexadecimal digits), id and count, in the order of the ids."""
        ids = np.arange(FIRST, self.num_embeddings, dtype=np.int32)
        columns = {"value": hexadecimal(self.values), "id": ids, "count": self.counts}
        pq.write_table(pa.table(columns), path, compression="zstd")

    @classmethod
    def load(cls, path: Path) -> "Vocabulary":
        """Read what `save` has written.

        Raises:
            ValueError: it is no vocabulary, or a damaged one.
        """
        try:
            table = pq.read_table(path, columns=["value", "count"])
            return cls(from_hexadecimal(table["value"]), table["count"].to_numpy())
        except (OSError, pa.ArrowInvalid, pa.ArrowKeyError) as error:
            raise ValueError(f"{path}: no vocabulary of Criteo's categories ({folders.reason(error)})") from None


class Hashing:
    """Every value's number by a hash, so that several values may have the same."""

    def __init__(self, number: int, num_embeddings: int) -> None:
        """`number` is the column's, whose values are hashed differently from those of the others."""
        self._number, self.num_embeddings = number, num_embeddings

    def ids(self, values: np.ndarray) -> np.ndarray:
        """Return the numbers of `values`, uint32 [N], as int32 [N]: murmur3's 64-bit finalizer, modulo the buckets."""
        mixed = values.astype(np.uint64) | np.uint64(self._number << 32)
        for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
            mixed ^= mixed >> np.uint64(33)
            mixed *= np.uint64(factor)
        mixed ^= mixed >> np.uint64(33)
        return (FIRST + mixed % np.uint64(self.num_embeddings - FIRST)).astype(np.int32)


def encode(column: pa.DictionaryArray, encoder: Vocabulary | Hashing) -> pa.Array:
    """Return a column's numbers, int32."""
    ids = pa.array(encoder.ids(column.dictionary.to_numpy()))
    return pc.fill_null(ids.take(column.indices), pa.scalar(MISSING, pa.int32()))
