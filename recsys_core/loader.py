"""From a reader's blocks to this rank's rows: shuffled, cut evenly, and resumable at the exact row.

The rows of an epoch stand in one order that depends on the seed, the epoch and the table alone. A position is a place
in that order. Ranks own disjoint intervals of positions; what was consumed is a set of intervals, so another number of
ranks can take up what is left.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar, cast

import numpy as np
import pyarrow as pa

from recsys_core.readers.base import Reader

Interval = tuple[int, int]
T = TypeVar("T")
_ROWS_PER_TAKE = 8_192  # the first batch need not wait until a whole chunk is shuffled


class Rows(NamedTuple):
    """One rank's rows of one step: up to `batch_size`, none once it has run out while another rank has not.

    `most_rows` is the number of rows of the rank that has most of them at this step, `global_rows` their sum.
    """

    table: pa.Table
    consumed: list[Interval]
    most_rows: int
    global_rows: int


class Order:
    """The rows of one epoch in the order of their positions.

    Blocks are permuted, then grouped into chunks of about `shuffle_rows` rows, then rows are permuted inside a chunk:
    rows of different blocks mix, and no more than one chunk is in memory. `shuffle_rows=0` keeps the table's order.
    """

    def __init__(self, block_rows: np.ndarray, *, seed: int, epoch: int, shuffle_rows: int) -> None:
        """Draw the order; costs no reading."""
        self._seed, self._epoch, self._shuffle = seed, epoch, shuffle_rows > 0
        blocks = np.flatnonzero(block_rows)
        if self._shuffle:
            blocks = np.random.default_rng((seed, epoch)).permutation(blocks)
        rows = block_rows[blocks]
        before = np.cumsum(rows) - rows
        chunk_of = before // max(shuffle_rows, 1) if self._shuffle else np.arange(len(blocks))
        starts = np.flatnonzero(np.diff(chunk_of, prepend=-1))
        self._chunks = np.split(blocks, starts[1:]) if len(blocks) else []
        self._starts = np.append(before[starts], rows.sum()).astype(np.int64) if len(blocks) else np.zeros(1, np.int64)
        self.num_rows = int(rows.sum())

    def read(self, reader: Reader, interval: Interval, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Yield the rows at the positions of `interval`, in order, a few thousand at a time."""
        begin, stop = interval
        first = int(np.searchsorted(self._starts, begin, side="right")) - 1
        for chunk in range(first, len(self._chunks)):
            low, high = int(self._starts[chunk]), int(self._starts[chunk + 1])
            if low >= stop:
                return
            table = pa.concat_tables([reader.read(int(block), columns) for block in self._chunks[chunk]])
            a, b = max(begin, low) - low, min(stop, high) - low
            if not self._shuffle:
                yield table.slice(a, b - a)
                continue
            permutation = np.random.default_rng((self._seed, self._epoch, chunk)).permutation(high - low)
            together = table.combine_chunks()
            for start in range(a, b, _ROWS_PER_TAKE):
                yield together.take(pa.array(permutation[start : min(start + _ROWS_PER_TAKE, b)]))


def merge(intervals: Sequence[Interval]) -> list[Interval]:
    """Return the union of `intervals` as sorted, disjoint, non-touching, non-empty intervals.

    Raises:
        ValueError: two intervals overlap, so some row would have been consumed twice.
    """
    merged: list[Interval] = []
    for start, stop in sorted((a, b) for a, b in intervals if a < b):
        if merged and start < merged[-1][1]:
            raise ValueError(f"rows [{start}, {merged[-1][1]}) were consumed twice; the position is damaged")
        if merged and start == merged[-1][1]:
            merged[-1] = (merged[-1][0], stop)
        else:
            merged.append((start, stop))
    return merged


def remaining(consumed: Sequence[Interval], num_rows: int) -> list[Interval]:
    """Return the positions of [0, num_rows) that `consumed` does not hold, as sorted disjoint intervals."""
    edges = [0, *(edge for interval in merge(consumed) for edge in interval), num_rows]
    return [(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if a < b]


def cut(intervals: Sequence[Interval], shard: int, num_shards: int) -> list[Interval]:
    """Return the part of `intervals` that is `shard`'s: parts are disjoint, complete, and differ by a row at most."""
    total = sum(b - a for a, b in intervals)
    return _slice(intervals, total * shard // num_shards, total * (shard + 1) // num_shards)


class Shard:
    """One rank's batches of one epoch; every rank yields the same number, and every row is yielded exactly once."""

    def __init__(
        self,
        reader: Reader,
        order: Order,
        columns: Sequence[str],
        *,
        batch_size: int,
        rank: int,
        num_ranks: int,
        consumed: Sequence[Interval] = (),
    ) -> None:
        """Cut what `consumed` leaves of `order` into `num_ranks` parts and take the part of `rank`."""
        left = remaining(consumed, order.num_rows)
        self._rows_by_rank = [sum(b - a for a, b in cut(left, r, num_ranks)) for r in range(num_ranks)]
        self._reader, self._order, self._columns, self._batch_size = reader, order, columns, batch_size
        self._mine = cut(left, rank, num_ranks)
        self.num_batches = -(-max(self._rows_by_rank) // batch_size)

    def __iter__(self) -> Iterator[Rows]:
        """Yield the batches; a rank that has run out of rows yields empty ones, to keep step with the others."""
        pieces = (piece for interval in self._mine for piece in self._order.read(self._reader, interval, self._columns))
        empty = self._reader.schema.empty_table().select(self._columns)
        held: list[pa.Table] = []
        num_held = num_out = 0
        for step in range(self.num_batches):
            while num_held < self._batch_size and (piece := next(pieces, None)) is not None:
                held.append(piece)
                num_held += piece.num_rows
            together = pa.concat_tables(held) if held else empty
            batch = together.slice(0, self._batch_size).combine_chunks()
            held = [together.slice(batch.num_rows)] if num_held > batch.num_rows else []
            num_held -= batch.num_rows
            consumed = _slice(self._mine, num_out, num_out + batch.num_rows)
            num_out += batch.num_rows
            by_rank = [min(max(rows - step * self._batch_size, 0), self._batch_size) for rows in self._rows_by_rank]
            yield Rows(batch, consumed, max(by_rank), sum(by_rank))


def _slice(intervals: Sequence[Interval], start: int, stop: int) -> list[Interval]:
    """Return the positions that stand at places [start, stop) of the concatenated `intervals`."""
    part: list[Interval] = []
    passed = 0
    for a, b in intervals:
        low, high = max(start - passed, 0) + a, min(stop - passed, b - a) + a
        if low < high:
            part.append((low, high))
        passed += b - a
    return part


def prefetch(items: Iterator[T], *, depth: int = 4) -> Iterator[T]:
    """Yield `items` from a thread that runs up to `depth` items ahead; its exceptions are raised here."""
    end = object()
    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch")
    try:
        ahead = deque(pool.submit(next, items, end) for _ in range(depth))
        while (item := ahead.popleft().result()) is not end:
            ahead.append(pool.submit(next, items, end))
            yield cast("T", item)
    finally:
        pool.shutdown(cancel_futures=True)
