"""The log in memory: the users and when they were known, the items, and what each user had done before.

Legend: R interactions in the order of time, U users, I items, B of something that is asked for. A user or an item is
a code: its row in `Users.ids` or in the table of items.
"""

import datetime
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys_core import splits
from recsys_core.artifacts import Dataset
from recsys_core.datasets import _rows, daily
from recsys_core.datasets.base import DAY_SECONDS, day_number, day_of
from recsys_core.features.base import Jagged, ids
from recsys_core.features.columns.flat import spans
from recsys_core.splits import Division

Mode = Literal["before", "preceding", "others"]
Divide = Callable[[np.ndarray, np.ndarray, np.ndarray], Division]


class Users:
    """Users by code, and their fields as they were on a day.

    Attributes:
        ids: [U] user ids.
        schema: of user_id and the fields that were read.
    """

    def __init__(self, dataset: Dataset, until: datetime.date, fields: list[str]) -> None:
        """Read `fields` of the partitions up to and with `until`."""
        rows, days = read(dataset, "users", until, ["user_id", *fields])
        encoded = _distinct(rows["user_id"])
        codes = encoded.indices.to_numpy()
        # Stable, so that a user's rows stay in the order of days, in which they were read.
        order = np.argsort(codes, kind="stable")
        self.ids = encoded.dictionary
        # Partitions of before 1970, as logs have of what was there from the start, have negative numbers.
        self._first_day = int(days.min())
        self._num_days = day_number(until) - self._first_day + 1
        self._keys = codes[order].astype(np.int64) * self._num_days + (days[order] - self._first_day)
        self._rows, self.schema = rows.take(pa.array(order)), rows.schema
        self._lengths = np.bincount(codes, minlength=len(self.ids))
        self._starts = np.cumsum(self._lengths) - self._lengths

    def on(self, users: np.ndarray, days: np.ndarray) -> pa.Table:
        """Return user_id and fields of users [B] as each was on its day [B] (day numbers): its last row till then."""
        wanted = users.astype(np.int64) * self._num_days + (days - self._first_day)
        rows = self._starts[users]
        # Most users have one row, which need not be searched for.
        several = self._lengths[users] > 1
        rows[several] = np.searchsorted(self._keys, wanted[several], side="right") - 1
        unknown = (self._keys[rows] > wanted) | (self._keys[rows] // self._num_days != users) | (rows < 0)
        if unknown.any():
            first = int(np.argmax(unknown))
            raise ValueError(
                f"user {self.ids[int(users[first])]} acts on {day_of(int(days[first]))} and is in no users partition "
                "of that day or before; add the row to the log"
            )
        return self._rows.take(pa.array(rows))


class Items:
    """Items by code: first those known by the end of the run's day, as they were then, then those new until `until`.

    Attributes:
        table: [I] rows: item_id and the items' fields.
        num_known: how many are known by the end of the run's day.
    """

    def __init__(self, dataset: Dataset, day: datetime.date, until: datetime.date) -> None:
        """Read the partitions up to and with `until`."""
        rows, days = read(dataset, "items", until, list(dataset.columns["items"]))
        known = rows.slice(0, int(np.searchsorted(days, day_number(day), side="right")))
        tables = [_last_rows(known), _last_rows(rows.slice(known.num_rows))]
        new = pc.index_in(ids(tables[1]["item_id"]), value_set=ids(tables[0]["item_id"])).is_null()
        self.num_known = tables[0].num_rows
        self.table = pa.concat_tables([tables[0], tables[1].filter(new)]).combine_chunks()
        self.ids = self.table["item_id"].combine_chunks()


class Chunk(NamedTuple):
    """Some examples: users and items, int32 codes [B], Unix seconds, int64 [B], and histories, item codes."""

    users: np.ndarray
    items: np.ndarray
    seconds: np.ndarray
    history: Jagged

    @classmethod
    def joined(cls, parts: "Sequence[Chunk]") -> "Chunk":
        """Return the examples of all parts, one or more."""
        if len(parts) == 1:
            return parts[0]
        users, items, seconds, histories = zip(*parts, strict=True)
        values, lengths = ([getattr(own, name) for own in histories] for name in ("values", "lengths"))
        history = Jagged(np.concatenate(values), np.concatenate(lengths))
        return cls(np.concatenate(users), np.concatenate(items), np.concatenate(seconds), history)


class Segments(NamedTuple):
    """Parts of users' pasts, G of them, whose interactions are to be found with what came before them.

    The history of segment g are the interactions of `users[g]` from `starts[g]` up to `ends[g]`, places in the past
    laid out by user. It has `lengths[g]` of the targets, rows of the log in `rows` [E], one segment's after another;
    target e is to be found with the first `known[e]` entries of its segment's history.
    """

    users: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    rows: np.ndarray
    known: np.ndarray
    lengths: np.ndarray


class Log:
    """The interactions: first the past, then the ground truth, each in the order of time (that of files among equals).

    Attributes:
        users, items: int32 [R] codes.
        seconds: int64 [R], Unix time.
        num_past: how many interactions, from the first one on, are the past; the rest are the ground truth.
        learnable: bool [num_past], which of the past may be learned from.
        num_tied: how many of the ground truth stand there by the order of files among equal times.
    """

    def __init__(
        self,
        dataset: Dataset,
        until: datetime.date,
        users: Users,
        items: Items,
        mode: Mode,
        max_length: int,
        divide: Divide,
        popular_since: datetime.date | None = None,
    ) -> None:
        """Read the partitions up to and with `until`, and sort.

        `mode` and `max_length` say what a history is, see `preprocess.History`; `divide` says what each row is for, of
        seconds, users and items [R] in the order of time. Items are counted from `popular_since` on, or over all.

        Raises:
            ValueError: an interaction's user or item is not in the log's users or items.
        """
        rows, _ = read(dataset, "interactions", until, ["user_id", "item_id", "timestamp"])
        seconds, codes = rows["timestamp"].to_numpy(), codes_of(rows["user_id"], users.ids, "users")
        taken = codes_of(rows["item_id"], items.ids, "items")
        order = np.argsort(seconds, kind="stable")
        roles, self.num_tied = divide(seconds[order], codes[order], taken[order])
        is_past = (roles == splits.LEARNED) | (roles == splits.KNOWN)
        self.learnable = roles[is_past] == splits.LEARNED
        order = np.concatenate([order[is_past], order[roles == splits.MEASURED]])
        self.num_past = len(self.learnable)
        self.seconds, self.users, self.items = seconds[order], codes[order], taken[order]
        # Half of what is held here, and not needed while sorting.
        del rows, seconds, codes, taken, order, roles, is_past
        self._mode, self._max_length, self._popular_since = mode, max_length, popular_since
        self._num_items = items.table.num_rows
        self._sort_by_user(len(users.ids))

    def first_row(self, day: datetime.date) -> int:
        """Return the first row of the past that is on `day` or later."""
        return int(np.searchsorted(self.seconds[: self.num_past], day_number(day) * DAY_SECONDS))

    def days(self, rows: np.ndarray) -> np.ndarray:
        """Return the day numbers of these rows [B]."""
        return self.seconds[rows] // DAY_SECONDS

    def counts(self) -> np.ndarray:
        """Return how often each item was taken, int64 [I], from `popular_since` on."""
        first = 0 if self._popular_since is None else self.first_row(self._popular_since)
        return np.bincount(self.items[first : self.num_past], minlength=self._num_items)

    def examples(self, rows: np.ndarray, size: int) -> Iterator[Chunk]:
        """Yield the examples of these rows [E], `size` at a time; one chunk at least."""
        for start in range(0, max(len(rows), 1), size):
            own = rows[start : start + size]
            yield Chunk(self.users[own], self.items[own], self.seconds[own], self.before(own))

    def before(self, rows: np.ndarray) -> Jagged:
        """Return the histories, item codes, that the examples of these rows [B] may know."""
        users = self.users[rows]
        if self._mode != "others":
            return self._last(self._starts[users], self._ends[rows])
        # What the others are depends on user and item only, so that each pair is looked at once. Of the user's last
        # max_length + c interactions at most the c with the example's item drop out.
        #
        #     by user     … | a b a c d a | …      example (user, a): c = 3, max_length = 2
        #     window            b a c d a          the last 2 + 3
        #     others            b   c d            without a; then the last 2: c d
        _, first, pair = np.unique(self._pair(rows), return_index=True, return_inverse=True)
        rows, users = rows[first], users[first]
        starts, ends = self._starts[users], self._starts[users + 1]
        starts = np.maximum(starts, ends - self._max_length - self._repeats[rows])
        window = self._by_user[spans(starts, ends - starts)]
        example = np.repeat(np.arange(len(rows)), ends - starts)
        others = window != self.items[rows][example]
        lengths = np.bincount(example[others], minlength=len(rows)).astype(np.int32)
        return Jagged(window[others], lengths).last(self._max_length).take(pair)

    def segments(self, rows: np.ndarray) -> Segments:
        """Return segments with histories of up to `max_length` that have each of these rows [E] as a target once.

        A user's last segment ends before the last target, and those before it where the one behind begins:

            user's past    0 1 2 3 4 5 6         of which 2 to 6 are to be found, max_length = 3
            history              3 4 5           of 4, 5 and 6, which know 1, 2 and 3 entries of it
            history        0 1 2                 of 2 and 3, which know 2 and 3
        """
        assert self._mode != "others", "what comes after an interaction is no history that has an order"
        order = np.lexsort((rows, self.users[rows]))
        left, users = rows[order], self.users[rows][order]
        ends = self._ends[left]
        parts = [(np.zeros(0, np.int64),) * 5]
        while len(left):
            last = np.append(users[1:] != users[:-1], True)
            stops = np.repeat(ends[last], np.diff(np.flatnonzero(last), prepend=-1))
            starts = np.maximum(self._starts[users], stops - self._max_length)
            # One that is where the history begins knows more in the segment before, if there is something before it.
            inside = (ends > starts) | (starts == self._starts[users])
            parts.append((users[inside], starts[inside], stops[inside], left[inside], (ends - starts)[inside]))
            left, users, ends = left[~inside], users[~inside], ends[~inside]
        users, starts, stops, targets, known = (np.concatenate(own) for own in zip(*parts, strict=True))
        order = np.lexsort((targets, starts, users))
        users, starts, stops, targets, known = (own[order] for own in (users, starts, stops, targets, known))
        first = np.ones(len(users), dtype=bool)
        first[1:] = (users[1:] != users[:-1]) | (starts[1:] != starts[:-1])
        lengths = np.diff(np.flatnonzero(first), append=len(users)).astype(np.int32)
        return Segments(users[first], starts[first], stops[first], targets, known, lengths)

    def histories(self, segments: Segments, chunk: np.ndarray) -> Jagged:
        """Return the histories, item codes, of these [B] of the segments."""
        return self._last(segments.starts[chunk], segments.ends[chunk])

    def at_end(self, users: np.ndarray) -> Jagged:
        """Return the histories of users [B] when the past has ended."""
        return self._last(self._starts[users], self._starts[users + 1])

    def seen(self, users: np.ndarray) -> Jagged:
        """Return the distinct items of users [B], ever in the past, by rising code."""
        starts, ends = self._starts[users], self._starts[users + 1]
        return distinct(Jagged(self._by_user[spans(starts, ends - starts)], (ends - starts).astype(np.int32)))

    def ground_truth(self) -> tuple[np.ndarray, Jagged]:
        """Return the users [B] of the ground truth, by rising code, and the distinct items of each."""
        return grouped(self.users[self.num_past :], self.items[self.num_past :])

    def _last(self, starts: np.ndarray, ends: np.ndarray) -> Jagged:
        starts = np.maximum(starts, ends - self._max_length)
        return Jagged(self._by_user[spans(starts, ends - starts)], (ends - starts).astype(np.int32))

    def _pair(self, rows: np.ndarray) -> np.ndarray:
        """Return a number for each row's user and item."""
        return self.users[rows].astype(np.int64) * self._num_items + self.items[rows]

    def _sort_by_user(self, num_users: int) -> None:
        """Lay the past out by user, each user's in the order of time, and find where each row's history ends."""
        users, items, seconds = (array[: self.num_past] for array in (self.users, self.items, self.seconds))
        order = np.argsort(users, kind="stable")
        self._by_user = items[order]
        self._starts = np.concatenate([[0], np.cumsum(np.bincount(users, minlength=num_users))])
        if self._mode == "others":
            pairs = self._pair(np.arange(self.num_past))
            _, pair, counts = np.unique(pairs, return_inverse=True, return_counts=True)
            self._repeats = counts[pair]
            return
        self._ends = np.empty(len(order), dtype=np.int64)
        if self._mode == "preceding":
            self._ends[order] = np.arange(len(order))
            return
        # A history ends where the run of the user's rows of the same second begins:
        #
        #     user      7  7  7  7  8  8
        #     seconds   1  5  5  9  5  5
        #     ends      0  1  1  3  4  4
        users, seconds = users[order], seconds[order]
        begins = np.ones(len(order), dtype=bool)
        begins[1:] = (users[1:] != users[:-1]) | (seconds[1:] != seconds[:-1])
        self._ends[order] = np.maximum.accumulate(np.where(begins, np.arange(len(order)), 0))


def grouped(users: np.ndarray, items: np.ndarray) -> tuple[np.ndarray, Jagged]:
    """Return the users [B] of these rows, by rising code, and the distinct items of each, by rising code."""
    order = np.argsort(users, kind="stable")
    present, lengths = np.unique(users, return_counts=True)
    return present, distinct(Jagged(items[order], lengths.astype(np.int32)))


def distinct(jagged: Jagged) -> Jagged:
    """Return each row's distinct values, rising."""
    rows = np.repeat(np.arange(len(jagged.lengths)), jagged.lengths)
    order = np.lexsort((jagged.values, rows))
    rows, values = rows[order], jagged.values[order]
    first = np.ones(len(rows), dtype=bool)
    first[1:] = (rows[1:] != rows[:-1]) | (values[1:] != values[:-1])
    return Jagged(values[first], np.bincount(rows[first], minlength=len(jagged.lengths)).astype(np.int32))


def read(dataset: Dataset, table: str, until: datetime.date, columns: list[str]) -> tuple[pa.Table, np.ndarray]:
    """Return the rows of the partitions up to `until`, in the order of days and files, and the day number of each.

    Raises:
        ValueError: a file cannot be read, or a day has not the rows that ingest counted.
    """
    tables: list[pa.Table] = []
    days: list[np.ndarray] = []
    partitions = daily.partitions(dataset.root, table)
    for count in sorted(dataset.days, key=lambda count: count.day):
        if count.day <= until:
            num_rows = 0
            for path in partitions.get(count.day, []):
                tables.append(pa.concat_tables(list(_rows.read(dataset.root, table, path, columns))))
                days.append(np.full(tables[-1].num_rows, day_number(count.day), dtype=np.int32))
                num_rows += tables[-1].num_rows
            daily.require_rows(dataset, table, count, num_rows)
    if not tables:
        raise ValueError(f"{dataset.root}: no {table} on {until} or before; is the log complete?")
    # Whole numbers of several widths become the widest; ingest refuses what differs more than that.
    return pa.concat_tables(tables, promote_options="permissive").select(columns), np.concatenate(days)


def _distinct(values: pa.ChunkedArray) -> pa.DictionaryArray:
    return ids(values.combine_chunks()).dictionary_encode()


def _last_rows(table: pa.Table) -> pa.Table:
    """Return the last row of each item_id, in the order in which the ids first appear."""
    codes = _distinct(table["item_id"]).indices.to_numpy()
    last = np.zeros(int(codes.max(initial=-1)) + 1, dtype=np.int64)
    # Of repeated places, numpy keeps the last assignment.
    last[codes] = np.arange(len(codes))
    return table.take(pa.array(last))


def codes_of(values: pa.ChunkedArray, known: pa.Array, table: str) -> np.ndarray:
    """Return the codes of ids, int32.

    Raises:
        ValueError: one is not in the log's `table`; names it.
    """
    codes = pc.index_in(ids(values), value_set=ids(known))
    if codes.null_count:
        first = values.filter(codes.is_null())[0]
        raise ValueError(f"an interaction is with {first}, which is not in the log's {table}; add the row to the log")
    return codes.to_numpy()
