"""One rank's batches of an epoch: cut evenly, by rows or by cost, and resumable at the exact row."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys_core.loading.epoch_order import EpochOrder
from recsys_core.loading.reading import read
from recsys_core.loading.row_ranges import RowRange, cut, part_of, remaining
from recsys_core.readers.base import Reader


@dataclass(frozen=True)
class Rows:
    """One rank's rows of one step: up to `batch_size`, none once it has run out while another rank has not.

    `most_rows` is the number of rows of the rank that has most of them at this step, `global_rows` their sum.
    """

    parts: list[pa.RecordBatch]
    consumed: list[RowRange]
    most_rows: int
    global_rows: int
    order: "EpochOrder | None" = None

    @cached_property
    def batch(self) -> pa.RecordBatch:
        """The rows in one piece; put together by the first thread that asks, which should be one that has the time."""
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


class RankBatches:
    """One rank's batches of one epoch; every rank yields the same number, and every row is yielded exactly once."""

    def __init__(
        self,
        reader: Reader,
        order: EpochOrder,
        columns: Sequence[str],
        *,
        batch_size: int,
        rank: int,
        num_ranks: int,
        consumed: Sequence[RowRange] = (),
        budget: "CostLimit | None" = None,
        gather: Callable[[list[int]], list[list[int]]] | None = None,
        num_threads: int | None = None,
    ) -> None:
        """Cut what `consumed` leaves of `order` into `num_ranks` parts and take the part of `rank`.

        With a `budget`, batches have up to `batch_size` rows, and fewer where these cost too much. How many batches
        a rank then has depends on its rows; `gather` (`World.gather`; None for a single rank) sends it to the others.

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

    @classmethod
    def in_order(
        cls, reader: Reader, columns: Sequence[str], *, batch_size: int, rank: int, num_ranks: int
    ) -> "RankBatches":
        """Return batches of all rows once, in the table's order."""
        order = EpochOrder(reader.block_rows, seed=0, epoch=0, shuffle_rows=0)
        return cls(reader, order, columns, batch_size=batch_size, rank=rank, num_ranks=num_ranks)

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
            consumed = part_of(self._mine, num_out, num_out + size)
            num_out += size
            yield Rows(held, consumed, most_rows, global_rows, self._order)


class CostLimit(NamedTuple):
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
