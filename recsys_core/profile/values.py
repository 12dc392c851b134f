"""Statistics of one stream of numbers or of texts: exact while there are few distinct values, sketched from then on.

Legend: N values that are added together, U of them distinct.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys_core.profile.hashing import hashes, of_numbers
from recsys_core.profile.sketches import Distinct, Frequent, Moments, Quantiles

EXACT_VALUES = 1 << 16
_LOW_BITS = np.uint64(0xFFFF)


class Counts:
    """How often each value occurs, exactly; memory is a few times the number of distinct ones."""

    def __init__(self) -> None:
        """Start without values."""
        self._tables: list[pa.Table] = []
        self._pending = 0

    def add(self, values: pa.Array) -> bool:
        """Count values [N] without nulls; return whether there are few enough distinct ones to go on."""
        counted = pc.value_counts(values)
        self._tables.append(pa.table({"value": counted.field("values"), "count": counted.field("counts")}))
        self._pending += len(counted)
        if self._pending > 2 * EXACT_VALUES:
            self.merged()
        # Of several tables, values may stand in more than one; what they hold together is known once they are merged.
        return len(counted) <= EXACT_VALUES and (len(self._tables) > 1 or self._pending <= EXACT_VALUES)

    def merged(self) -> tuple[pa.Array, np.ndarray]:
        """Return the distinct values [U], in no particular order, and their counts int64 [U]."""
        if len(self._tables) > 1:
            merged = pa.concat_tables(self._tables).group_by("value").aggregate([("count", "sum")])
            self._tables = [merged.rename_columns({"count_sum": "count"}).combine_chunks()]
            self._pending = merged.num_rows
        if not self._tables:
            return pa.array([], pa.int64()), np.zeros(0, dtype=np.int64)
        table = self._tables[0]
        return table["value"].combine_chunks(), table["count"].to_numpy().astype(np.int64)


class Numbers:
    """Numbers, as integers or floats; NaN and infinities are counted apart."""

    def __init__(self) -> None:
        """Start without values."""
        self.moments = Moments()
        self.nans = 0
        self.infinities = 0
        self.top_error = 0
        self._counts: Counts | None = Counts()
        self._quantiles = Quantiles()
        self._distinct = Distinct()
        self._frequent = Frequent()

    def add(self, values: np.ndarray) -> None:
        """Add numbers [N] of one dtype for all calls."""
        if values.dtype.kind == "f":
            finite = np.isfinite(values)
            if not finite.all():
                nans = int(np.count_nonzero(np.isnan(values)))
                self.nans += nans
                self.infinities += len(values) - int(np.count_nonzero(finite)) - nans
                values = values[finite]
            # Makes -0.0 the same number as 0.0.
            values = values + values.dtype.type(0)
        if not len(values):
            return
        self.moments.add(values)
        if self._counts is not None:
            if not self._counts.add(pa.array(values)):
                known, counts = self._counts.merged()
                self._counts = None
                self._sketch(known.to_numpy(), counts)
            return
        ordered = np.sort(values)
        starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
        distinct = ordered[starts]
        self._quantiles.add(ordered)
        self._distinct.add(of_numbers(distinct))
        self._frequent.add(distinct, np.diff(starts, append=len(ordered)))

    def distinct(self) -> tuple[int, float]:
        """Return how many distinct numbers there were, and the relative standard error of that."""
        if self._counts is None:
            return self._distinct.estimate(), Distinct.RELATIVE_ERROR
        return len(self._counts.merged()[0]), 0.0

    def weighted(self) -> tuple[np.ndarray, np.ndarray, float]:
        """Return numbers, rising, how many each stands for, and by what share of all of them a rank may be wrong."""
        if self._counts is None:
            return *self._quantiles.weighted(), self._quantiles.rank_error / self._quantiles.count
        known, counts = self._counts.merged()
        values = known.to_numpy()
        order = np.argsort(values)
        return values[order], counts[order], 0.0

    def top(self, number: int) -> tuple[list[tuple[int | float, int]], int]:
        """Return the most frequent numbers with their counts, falling, and by how much a count may be too low."""
        if self._counts is None:
            assert self._frequent.keys is not None
            values, counts, error = self._frequent.keys, self._frequent.counts, self._frequent.error
        else:
            values, counts, _ = self.weighted()
            error = 0
        return [(values[row].item(), int(counts[row])) for row in _first(values, counts, number, error)], error

    def _sketch(self, values: np.ndarray, counts: np.ndarray) -> None:
        order = np.argsort(values)
        values, counts = values[order], counts[order]
        self._quantiles.add_counted(values, counts)
        self._distinct.add(of_numbers(values))
        self._frequent.add(values, counts)


class Texts:
    """Texts or bytes, and how long they are."""

    def __init__(self) -> None:
        """Start without values."""
        self.count = 0
        self.minimum: bytes | None = None
        self.maximum: bytes | None = None
        self.lengths = Numbers()
        self._counts: Counts | None = Counts()
        self._distinct = Distinct()
        self._frequent = Frequent()
        self._names: dict[int, bytes] = {}

    def add(self, values: pa.Array, lengths: np.ndarray) -> None:
        """Add values [N] (binary, without nulls) with their lengths [N]."""
        if not len(values):
            return
        self.count += len(values)
        self.lengths.add(lengths)
        ends = pc.min_max(values).as_py()
        self.minimum = ends["min"] if self.minimum is None else min(self.minimum, ends["min"])
        self.maximum = ends["max"] if self.maximum is None else max(self.maximum, ends["max"])
        if self._counts is None:
            self._sketch(values, None)
        elif not self._counts.add(values):
            known, counts = self._counts.merged()
            self._counts = None
            self._sketch(known, counts)

    def distinct(self) -> tuple[int, float]:
        """Return how many distinct values there were, and the relative standard error of that."""
        if self._counts is None:
            return self._distinct.estimate(), Distinct.RELATIVE_ERROR
        return len(self._counts.merged()[0]), 0.0

    def top(self, number: int) -> tuple[list[tuple[bytes, int]], int]:
        """Return the most frequent values with their counts, falling, and by how much a count may be too low."""
        if self._counts is not None:
            known, counts = self._counts.merged()
            best = _first(np.arange(len(known)), counts, number, 0)
            # Ties are shown in the order of the texts, not in the order in which they came.
            pairs = [(known[int(row)].as_py(), int(counts[row])) for row in best]
            return sorted(pairs, key=lambda pair: (-pair[1], pair[0])), 0
        assert self._frequent.keys is not None
        keys, counts, error = self._frequent.keys, self._frequent.counts, self._frequent.error
        best = _first(keys, counts, number, error)
        return [(self._names[int(keys[row])], int(counts[row])) for row in best], error

    def _sketch(self, values: pa.Array, counts: np.ndarray | None) -> None:
        hashed = hashes(values)
        order = np.argsort(hashed) if counts is not None else None
        ordered = np.sort(hashed) if order is None else hashed[order]
        starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
        distinct = ordered[starts]
        if counts is None or order is None:
            counts = np.diff(starts, append=len(ordered))
        else:
            counts = np.add.reduceat(counts[order], starts)
        self._distinct.add(distinct)
        self._frequent.add(distinct, counts)
        self._name(values, hashed)

    def _name(self, values: pa.Array, hashed: np.ndarray) -> None:
        """Remember the texts of the keys that are kept, found by their low bits first: few rows are looked at twice."""
        keys = self._frequent.keys
        assert keys is not None
        kept = {key: self._names[key] for key in keys.tolist() if key in self._names}
        new = np.array([key for key in keys.tolist() if key not in kept], dtype=np.uint64)
        marks = np.zeros(int(_LOW_BITS) + 1, dtype=bool)
        marks[(new & _LOW_BITS).astype(np.int64)] = True
        rows = np.flatnonzero(marks[(hashed & _LOW_BITS).astype(np.int64)])
        found, first = np.unique(hashed[rows], return_index=True)
        wanted = np.isin(found, new)
        texts = values.take(pa.array(rows[first[wanted]])).to_pylist()
        self._names = kept | dict(zip(found[wanted].tolist(), texts, strict=True))


def _first(values: np.ndarray, counts: np.ndarray, number: int, error: int) -> list[int]:
    """Return the rows of the highest counts, lower values first among equals; counts that may be noise are left out."""
    if len(counts) > number:
        least = np.partition(counts, len(counts) - number)[len(counts) - number]
        rows = np.flatnonzero(counts >= least)
    else:
        rows = np.arange(len(counts))
    rows = rows[np.lexsort((values[rows], -counts[rows]))]
    return [int(row) for row in rows[:number] if counts[row] > error]
