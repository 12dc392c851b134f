"""From a reader's blocks to this rank's rows: shuffled, cut evenly, and resumable at the exact row.

The rows of an epoch stand in one order that depends on the seed, the epoch and the table alone. A position is a place
in that order. Ranks own disjoint intervals of positions; what was consumed is a set of intervals, so another number of
ranks can take up what is left.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys_core.readers.base import Reader

Interval = tuple[int, int]
T = TypeVar("T")
R = TypeVar("R")
_MAX_THREADS = 4
_FEWEST_TURNS = 16  # also where a whole chunk has fewer rows than a turn


@dataclass(frozen=True)
class Rows:
    """One rank's rows of one step: up to `batch_size`, none once it has run out while another rank has not.

    `most_rows` is the number of rows of the rank that has most of them at this step, `global_rows` their sum.
    """

    parts: list[pa.RecordBatch]
    consumed: list[Interval]
    most_rows: int
    global_rows: int
    order: "Order | None" = None

    @cached_property
    def batch(self) -> pa.RecordBatch:
        """The rows in one piece; put together by whoever asks first, which should be a thread that has the time."""
        return pa.concat_batches(self.parts)

    @property
    def table(self) -> pa.Table:
        """The same rows as a table."""
        return pa.Table.from_batches([self.batch])

    def number(self, row: int) -> int:
        """Return which of all rows that are read, in the table's order, is row `row` of this step."""
        if self.order is None:
            return row
        for start, stop in self.consumed:
            if row < stop - start:
                return self.order.row(start + row)
            row -= stop - start
        raise IndexError(row)


class Piece(NamedTuple):
    """`num_rows` rows from row `start` on of the permuted block `block`; they stand at `position` of the order."""

    block: int
    start: int
    num_rows: int
    position: int


class Order:
    """The rows of one epoch in the order of their positions.

    Blocks are permuted and grouped into chunks of about `shuffle_rows` rows. The rows of each block are permuted, and
    a chunk deals its blocks out in turns: every turn takes some of the rows of each of its blocks, as many as keeps
    them in proportion. So a batch mixes rows of all the chunk's blocks, a gather never leaves a block, which a
    processor's cache can hold, and no more than two chunks are in memory. `shuffle_rows=0` keeps the table's order.

        chunk   block 4: d a c b      block 1: p r q s t u
        turns   d a | p r q | c b | s t u                       (two turns)
    """

    def __init__(
        self, block_rows: np.ndarray, *, seed: int, epoch: int, shuffle_rows: int, rows_per_turn: int = 1_024
    ) -> None:
        """Draw the order; costs no reading. A turn has about `rows_per_turn` rows: let it be a batch's or fewer."""
        self._seed, self._epoch, self.shuffles = seed, epoch, shuffle_rows > 0
        self._rows_per_turn = rows_per_turn
        self._block_rows = block_rows
        self._permutations: dict[int, np.ndarray] = {}
        self._offsets = np.random.default_rng((seed, epoch, 0)).integers(np.maximum(block_rows, 1))
        blocks = np.flatnonzero(block_rows)
        if self.shuffles:
            blocks = np.random.default_rng((seed, epoch)).permutation(blocks)
        rows = block_rows[blocks]
        before = np.cumsum(rows) - rows
        chunk_of = before // max(shuffle_rows, 1) if self.shuffles else np.arange(len(blocks))
        starts = np.flatnonzero(np.diff(chunk_of, prepend=-1))
        self._chunks = np.split(blocks, starts[1:]) if len(blocks) else []
        self._starts = np.append(before[starts], rows.sum()).astype(np.int64) if len(blocks) else np.zeros(1, np.int64)
        self.num_rows = int(rows.sum())

    def chunks(self, interval: Interval) -> Iterator[list[Piece]]:
        """Yield the pieces at the positions of `interval`, in order, chunk by chunk."""
        begin, stop = interval
        first = int(np.searchsorted(self._starts, begin, side="right")) - 1
        for chunk in range(first, len(self._chunks)):
            low = int(self._starts[chunk])
            if low >= stop:
                return
            yield [part for piece in self._dealt(chunk) if (part := _clipped(piece, begin, stop)) is not None]

    def permutation(self, block: int) -> np.ndarray | None:
        """Return which row of the block comes when, or None where a block keeps its order.

        Blocks of one size share a permutation, which each turns by an offset of its own: drawing one takes longer than
        reading what it permutes.
        """
        if not self.shuffles:
            return None
        num_rows = int(self._block_rows[block])
        if (shared := self._permutations.get(num_rows)) is None:
            shared = np.random.default_rng((self._seed, self._epoch, num_rows)).permutation(num_rows)
            shared = self._permutations[num_rows] = shared.astype(np.uint32 if num_rows < 2**31 else np.uint64)
        turned = shared + shared.dtype.type(self._offsets[block])
        # What has no row to take away wraps round to a large number.
        return np.minimum(turned, turned - shared.dtype.type(num_rows))

    def row(self, position: int) -> int:
        """Return which row of all blocks, one after another, stands at `position`."""
        (piece,) = next(self.chunks((position, position + 1)))
        rows = self.permutation(piece.block)
        return int(self._block_rows[: piece.block].sum()) + (piece.start if rows is None else int(rows[piece.start]))

    def _dealt(self, chunk: int) -> Iterator[Piece]:
        blocks, position = self._chunks[chunk], int(self._starts[chunk])
        rows = self._block_rows[blocks]
        num_turns = max(_FEWEST_TURNS, -(-int(rows.sum()) // self._rows_per_turn)) if self.shuffles else 1
        edges = np.arange(num_turns + 1)[:, None] * rows // num_turns
        for turn in range(num_turns):
            for at, block in enumerate(blocks):
                start, stop = int(edges[turn, at]), int(edges[turn + 1, at])
                if start < stop:
                    yield Piece(int(block), start, stop - start, position)
                    position += stop - start


def read(
    reader: Reader,
    order: Order,
    intervals: Iterable[Interval],
    columns: Sequence[str],
    num_threads: int | None = None,
) -> Iterator[pa.RecordBatch]:
    """Yield the rows at the positions of `intervals`, in order.

    Blocks are read by `num_threads` threads (Arrow releases the interpreter's lock), which run one chunk ahead of the
    consumer, or a few blocks where nothing is shuffled; no further, so memory is bounded. By default half of the cores
    read, for to permute and encode takes about as long: more threads than cores would pass each other the
    interpreter's lock.
    """
    threads = num_threads or half_of_the_cores()
    chunks = (chunk for interval in intervals for chunk in order.chunks(interval))
    ahead: deque[tuple[list[Piece], dict[int, _Reading]]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="read")

    def start_next() -> None:
        if (chunk := next(chunks, None)) is not None:
            blocks = dict.fromkeys(piece.block for piece in chunk)
            reading = {block: _Reading(reader, block, columns) for block in blocks}
            ahead.append((chunk, reading))
            for one in reading.values():
                pool.submit(one.run)

    try:
        for _ in range(1 if order.shuffles else threads + 2):
            start_next()
        while ahead:
            chunk, reading = ahead.popleft()
            start_next()
            permuted: dict[int, pa.RecordBatch] = {}
            for piece in chunk:
                if (block := permuted.get(piece.block)) is None:
                    wanted = reading.pop(piece.block)
                    later = (one for held in (reading, *(held for _, held in ahead)) for one in held.values())
                    block = permuted[piece.block] = _permuted(_result(wanted, later), order, piece.block)
                yield block.slice(piece.start, piece.num_rows)
    finally:
        pool.shutdown(cancel_futures=True)


class _Reading:
    """One block that is to be read, by whoever comes first."""

    def __init__(self, reader: Reader, block: int, columns: Sequence[str]) -> None:
        self.future: Future[pa.Table] = Future()
        self._read = lambda: reader.read(block, columns)
        self._lock = threading.Lock()

    def run(self) -> None:
        """Read it, unless somebody does already."""
        if not self._lock.acquire(blocking=False):
            return
        try:
            self.future.set_result(self._read())
        except BaseException as error:  # noqa: BLE001 - raised where the block is wanted
            self.future.set_exception(error)


def _result(wanted: _Reading, later: Iterable[_Reading]) -> pa.Table:
    # Who would wait reads as well, so that no core is idle.
    for one in (wanted, *later):
        if wanted.future.done():
            break
        one.run()
    return wanted.future.result()


def _permuted(table: pa.Table, order: Order, block: int) -> pa.RecordBatch:
    # A batch is sliced and permuted in less time than a table.
    batches = table.combine_chunks().to_batches()
    if len(batches) > 1:
        raise ValueError("a column has more than 2 GB of text in one block; write the table in smaller row groups")
    whole = batches[0]
    permutation = order.permutation(block)
    if permutation is None:
        return whole
    # A permutation never leaves the block; to check that took Arrow as long for each column as to permute it.
    return pc.take(whole, pa.array(permutation), boundscheck=False)


def _clipped(piece: Piece, begin: int, stop: int) -> Piece | None:
    low, high = max(begin, piece.position), min(stop, piece.position + piece.num_rows)
    if low >= high:
        return None
    return Piece(piece.block, piece.start + low - piece.position, high - low, low)


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
        budget: "Budget | None" = None,
        gather: Callable[[list[int]], list[list[int]]] | None = None,
        num_threads: int | None = None,
    ) -> None:
        """Cut what `consumed` leaves of `order` into `num_ranks` parts and take the part of `rank`.

        With a `budget`, batches have up to `batch_size` rows, and fewer where these cost too much. How many batches
        a rank then has depends on its rows; `gather` (`World.gather`; None for a single rank) tells it to the others.

        Raises:
            ValueError: a row that alone costs more than the budget; it is named.
        """
        left = remaining(consumed, order.num_rows)
        self._reader, self._order, self._columns, self._num_threads = reader, order, columns, num_threads
        self._mine = cut(left, rank, num_ranks)
        if budget is None:
            rows = [sum(b - a for a, b in cut(left, r, num_ranks)) for r in range(num_ranks)]
            sizes = [_even(count, batch_size) for count in rows]
        else:
            mine = budget.batches(read(reader, order, self._mine, [budget.column], num_threads), batch_size)
            sizes = [mine] if gather is None else gather(mine)
        self.num_batches = max(len(batches) for batches in sizes)
        self._sizes = sizes[rank] + [0] * (self.num_batches - len(sizes[rank]))
        by_step = [
            [batches[step] if step < len(batches) else 0 for batches in sizes] for step in range(self.num_batches)
        ]
        self._most, self._sums = [max(rows) for rows in by_step], [sum(rows) for rows in by_step]

    def __iter__(self) -> Iterator[Rows]:
        """Yield the batches; a rank that has run out of rows yields empty ones, to keep step with the others."""
        parts = read(self._reader, self._order, self._mine, self._columns, self._num_threads)
        schema = self._reader.schema
        rest = pa.RecordBatch.from_pylist([], pa.schema([schema.field(name) for name in self._columns]))
        num_out = 0
        for size, most_rows, global_rows in zip(self._sizes, self._most, self._sums, strict=True):
            held, num_held = [rest], rest.num_rows
            while num_held < size:
                held.append(next(parts))
                num_held += held[-1].num_rows
            held[-1], rest = (
                held[-1].slice(0, held[-1].num_rows - num_held + size),
                held[-1].slice(held[-1].num_rows - num_held + size),
            )
            consumed = _slice(self._mine, num_out, num_out + size)
            num_out += size
            yield Rows(held, consumed, most_rows, global_rows, self._order)


class Budget(NamedTuple):
    """Batches by cost: the sum of `column` over a batch's rows is at most `limit`. A list costs its length."""

    column: str
    limit: float

    def batches(self, tables: Iterable[pa.Table | pa.RecordBatch], batch_size: int) -> list[int]:
        """Return how many rows each batch has: as many of the next ones as the limit and `batch_size` allow.

        Raises:
            ValueError: a row costs more than the limit, nothing that can be counted, or less than nothing.
        """
        costs = [_costs(table.column(self.column), self.column) for table in tables]
        total = np.concatenate([[0.0], *costs]).cumsum()
        single = np.diff(total)
        if (single > self.limit).any():
            worst = int(np.argmax(single))
            raise ValueError(
                f"a row's {self.column} is {single[worst]:g}, which alone is more than the {self.limit:g} of a batch "
                f"(row {worst} of this rank's in the epoch's order); raise the limit, or filter such rows out"
            )
        sizes: list[int] = []
        start, num_rows = 0, len(single)
        while start < num_rows:
            end = int(np.searchsorted(total, total[start] + self.limit, side="right")) - 1
            end = min(max(end, start + 1), start + batch_size, num_rows)
            sizes.append(end - start)
            start = end
        return sizes


def _costs(column: pa.Array | pa.ChunkedArray, name: str) -> np.ndarray:
    if pa.types.is_nested(column.type):
        column = pc.fill_null(pc.list_value_length(column), 0)
    elif not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        raise ValueError(f"cost column {name!r} is {column.type}; name a column of numbers or of lists")
    costs = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    if not (costs >= 0).all():
        raise ValueError(f"cost column {name!r} has a null, a NaN or a number below 0; a cost is a number from 0 on")
    return costs


def _even(num_rows: int, batch_size: int) -> list[int]:
    sizes = [batch_size] * (num_rows // batch_size)
    return [*sizes, num_rows % batch_size] if num_rows % batch_size else sizes


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


def half_of_the_cores() -> int:
    """Return how many threads read, and how many encode, if nobody says otherwise."""
    return max(1, min(_MAX_THREADS, len(os.sched_getaffinity(0)) // 2))


def prefetch(
    items: Iterator[T], work: Callable[[T], R] | None = None, *, num_threads: int = 1, depth: int = 4
) -> Generator[R, None, None]:
    """Yield what `work` makes of each of `items` (None: the items themselves), in order, made ahead by threads.

    Up to `depth` are made ahead. Threads take turns to get the next item, and work at the same time. What either
    raises is raised here.
    """
    end, turn = object(), threading.Lock()
    ahead: deque[Future[Any]] = deque()
    unmade: deque[Future[Any]] = deque()
    pool = ThreadPoolExecutor(num_threads, thread_name_prefix="prefetch")

    def submit() -> None:
        result: Future[Any] = Future()
        ahead.append(result)
        unmade.append(result)
        pool.submit(make)

    def make() -> None:
        with turn:
            # Whoever has the turn takes the first place that is free with the next item, so that they stay in order.
            result = unmade.popleft()
            try:
                item = next(items, end)
            except BaseException as error:  # noqa: BLE001 - raised where the result is asked for
                result.set_exception(error)
                return
        try:
            result.set_result(item if item is end or work is None else work(cast("T", item)))
        except BaseException as error:  # noqa: BLE001 - likewise
            result.set_exception(error)

    try:
        for _ in range(depth):
            submit()
        while (made := ahead.popleft().result()) is not end:
            submit()
            yield made
    finally:
        pool.shutdown(cancel_futures=True)
