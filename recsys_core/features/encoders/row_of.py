"""Looking up which row of a table an id has, for encoders that have learnt it."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys_core.features import hashing

_MAX_DIRECT_SPAN_PER_ID = 16
_MOST_SEARCHED = 4_096
_GOLDEN = np.uint64(0x9E37_79B9_7F4A_7C15)  # 2**64 divided by the golden ratio


class RowOf:
    """The rows of known ids: directly by number where these lie close together, else by search; texts by a dict.

    Many ids are searched by their hash: a look or two at any place of the memory, where halving takes twenty.
    """

    def __init__(
        self, ids: pa.Array | pa.ChunkedArray, rows: np.ndarray, *, most_searched: int = _MOST_SEARCHED
    ) -> None:
        """`ids` (int64 or string) rise, each once; `rows` are theirs, all above 0.

        More integers than `most_searched` are searched by hash.
        """
        self.kind: pa.DataType = ids.type
        self.rows = rows
        texts = pa.types.is_string(ids.type)
        self._by_text = dict(zip(ids.to_pylist(), rows.tolist(), strict=True)) if texts else None
        self._ids = np.empty(0, dtype=np.int64) if texts else ids.to_numpy()
        self._direct: np.ndarray | None = None
        # Python's integers: the span of int64 ids may overflow int64.
        span = int(self._ids[-1]) - int(self._ids[0]) + 1 if len(self._ids) else 0
        if 0 < span <= _MAX_DIRECT_SPAN_PER_ID * len(self._ids):
            self._direct = np.zeros(span, dtype=np.int64)
            self._direct[self._ids - self._ids[0]] = rows
        hashed = self._direct is None and len(self._ids) > most_searched
        self._slots = _Slots(self._ids) if hashed else None

    def find(self, values: pa.Array) -> np.ndarray:
        """int64 [N]: 0 for ids that are not known."""
        if not len(values) or not len(self.rows):
            return np.zeros(len(values), dtype=np.int64)
        check_type(self.kind, values.type)
        if self._by_text is None:
            numbers = values.to_numpy(zero_copy_only=False)
            if self._slots is not None:
                found = self._slots.find(numbers)
                return np.where(found < 0, 0, self.rows[found])
            if self._direct is not None:
                # Seen as unsigned, what is below the first is among the largest; a difference that overflows, too.
                places = (numbers - self._ids[0]).view(np.uint64)
                if places.max() < len(self._direct):
                    return self._direct.take(places.view(np.int64))
                inside = places < len(self._direct)
                return self._direct.take(np.where(inside, places, 0).view(np.int64)) * inside
            inside = (numbers >= self._ids[0]) & (numbers <= self._ids[-1])
            places = np.where(inside, numbers, self._ids[0])
            found = np.searchsorted(self._ids, places)
            return np.where(self._ids[found] == numbers, self.rows[found], 0)
        # Looked up in a dict, not by Arrow's index_in, which would hash the whole vocabulary again for every batch.
        distinct = values.dictionary_encode()
        texts = distinct.dictionary.to_pylist()
        rows = np.fromiter((self._by_text.get(text, 0) for text in texts), dtype=np.int64, count=len(texts))
        return rows.take(distinct.indices.to_numpy(zero_copy_only=False))

    def of_any(self, ids: pa.Array) -> np.ndarray:
        """int64 [N]: as `find`, also of ids of the other type, by their texts; -1 for ids that are not known."""
        alike = as_type(ids, self.kind)
        rows = np.full(len(ids), -1)
        there = alike.is_valid().to_numpy(zero_copy_only=False)
        found = self.find(alike.drop_null())
        rows[there] = np.where(found == 0, -1, found)
        return rows


class _Slots:
    """Places of distinct int64 keys, by open addressing, for many keys at once; half of the slots stay free.

    Knuth 1998, The Art of Computer Programming 3, section 6.4: Fibonacci hashing, algorithm L.
    """

    def __init__(self, keys: np.ndarray) -> None:
        """Take as many rounds as the longest run of taken slots is long, each over the keys that are left."""
        num_bits = max(len(keys) * 2 - 1, 1).bit_length()
        self._keys, self._last = keys, (1 << num_bits) - 1
        self._shift = np.uint64(64 - num_bits)
        self._places = np.full(1 << num_bits, -1, np.int32 if len(keys) < 2**31 else np.int64)
        slots, left = self._slots(keys), np.arange(len(keys))
        while len(left):
            free = left[self._places[slots[left]] < 0]
            # Of several keys that write to one slot the last stays there.
            self._places[slots[free]] = free
            left = left[self._places[slots[left]] != left]
            slots[left] = (slots[left] + 1) & self._last

    def find(self, numbers: np.ndarray) -> np.ndarray:
        """int64 [N]: the place of each number among the keys, -1 where it is none."""
        found = np.full(len(numbers), -1, np.int64)
        slots, left = self._slots(numbers), np.arange(len(numbers))
        while len(left):
            places = self._places[slots]
            hit = (self._keys[places] == numbers[left]) & (places >= 0)
            found[left[hit]] = places[hit]
            on = ~hit & (places >= 0)
            left, slots = left[on], (slots[on] + 1) & self._last
        return found

    def _slots(self, numbers: np.ndarray) -> np.ndarray:
        return ((numbers.view(np.uint64) * _GOLDEN) >> self._shift).astype(np.int64)


def with_out_of_vocabulary(rows: np.ndarray, values: pa.Array, num_oov: int) -> np.ndarray:
    """Give the ids whose row is 0 one of the first `num_oov`."""
    if num_oov == 1 or rows.all():
        return rows
    unknown = rows == 0
    rows = rows.copy()
    rows[unknown] = out_of_vocabulary(values.filter(pa.array(unknown)), num_oov)
    return rows


def out_of_vocabulary(values: pa.Array, num_oov: int) -> np.ndarray:
    """int64 [N]: the rows, of the first `num_oov`, of ids that have none of their own."""
    if num_oov == 1:
        return np.zeros(len(values), np.int64)
    return hashing.remainder(hashing.hashed(values, "xxh3"), num_oov)


def check_type(fitted: pa.DataType, found: pa.DataType) -> None:
    """Refuse values of another type than the ids that were learnt.

    Raises:
        ValueError: says both types.
    """
    if fitted != found:
        raise ValueError(f"holds {found} where the vocabulary was fitted on {fitted}; cast one of them")


def counted(values: pa.Array) -> pa.Table:
    """Return how often each distinct id is in `values`: id, count."""
    found = values.value_counts()
    return pa.table({"id": found.field("values"), "count": found.field("counts")})


def sum_counts(tables: list[pa.Table]) -> pa.Table:
    """Return the tables' id, count as one, each id once, rising."""
    summed = pa.concat_tables(tables).group_by("id").aggregate([("count", "sum")])
    return summed.rename_columns({"count_sum": "count"}).select(["id", "count"]).sort_by("id")


def as_type(ids: pa.Array, kind: pa.DataType) -> pa.Array:
    """Bring ids to the other of the types that ids have, by their texts; one that is no decimal number becomes null."""
    if ids.type == kind or pa.types.is_string(kind):
        return ids.cast(kind)
    # Written as a number is, and short enough to fit.
    numbers = pc.match_substring_regex(ids, r"^(0|-?[1-9][0-9]{0,17})$")
    return pc.if_else(numbers, ids, pa.scalar(None, ids.type)).cast(kind)


def given_out(state: pa.Table) -> pa.Table:
    """Return id, row of the ids in an encoder's state that have a row of their own."""
    return state.select(["id", "row"]).filter(pc.greater(state["row"], 0)).combine_chunks()


def within(state: pa.Table, first: int, size: int) -> pa.Table:
    """Return id, count, row of an encoder's state; rows other than `first` to `size` - 1 are taken back (row 0)."""
    rows = state["row"].to_numpy()
    kept = np.where((rows >= first) & (rows < size), rows, 0)
    return state.select(["id", "count"]).append_column("row", pa.array(kept))
