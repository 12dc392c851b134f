"""The log day by day: what each user did last is carried from one day to the next, and no more of the past is held.

The examples are those of `log.Log`, in the same order and with the same histories, while memory holds one day, and
`max_length` items of each user. That is so where an example's history is what came before it, and each example stands
alone: what all of the past is needed for (mode `others`, sequences, splits of the whole log) is `Log`'s.

Legend: R rows of a day in the order of time, A users who act on it, U users, I items, L `max_length`.
"""

import datetime
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from recsys_core.artifacts import Dataset, Split
from recsys_core.features.base import Jagged, ids
from recsys_core.features.columns.flat import spans
from recsys_core.holdout import Part
from recsys_core.retrieval.preprocess import division
from recsys_core.retrieval.preprocess.log import Chunk, Items, Mode, Users, codes_of, grouped, read

# A table of the codes of all whole numbers up to the largest id takes this many times the memory of the ids at most.
_SPARSEST = 8
# Bytes of an interaction where the whole log is held, while it is sorted.
_OF_INTERACTION = 100


class _Rows(NamedTuple):
    """Some of a day's rows: codes int32 [R], and Unix seconds that rise, int64 [R]."""

    users: np.ndarray
    items: np.ndarray
    seconds: np.ndarray

    def take(self, chosen: np.ndarray) -> "_Rows":
        """Return the rows `chosen`, by number or bool [R]."""
        return _Rows(*(column[chosen] for column in self))


def serves(mode: Mode, parts: Sequence[Part], held_out: Part | None) -> bool:
    """Whether what is learned from and measured on can be made day by day."""
    kinds = [*(part.but for part in parts), held_out.only if held_out else None]
    return mode != "others" and not any(isinstance(kind, Split) for kind in kinds)


def takes_less(num_users: int, max_length: int, num_interactions: int) -> bool:
    """Whether what is carried of users takes less memory than the whole log; of long histories it may not."""
    return num_users * max_length * np.dtype(np.int32).itemsize <= num_interactions * _OF_INTERACTION


class DailyLog:
    """The interactions up to a day.

    Attributes:
        num_examples, first_day: how many examples there are, and the day of the first; None without any.
        num_measured: how many rows are measured on.
    """

    def __init__(
        self,
        dataset: Dataset,
        until: datetime.date,
        users: Users,
        items: Items,
        history: tuple[Mode, int],
        parts: Sequence[Part],
        held_out: Part | None,
        popular_since: datetime.date | None,
    ) -> None:
        """Read the rows that are measured on.

        `history` is its mode and L, `parts` are what is learned from, and items are counted from `popular_since` on
        (None: over all of the past).
        """
        self._dataset, self._until, self._users = dataset, until, users
        self._codes = {"users": _Codes(users.ids, "users"), "items": _Codes(items.ids, "items")}
        self._mode, self._max_length = history
        self._parts, self._held_out = {part.day: part for part in parts}, held_out
        self._popular_since = popular_since
        self._items_UL = np.zeros((len(users.ids), self._max_length), np.int32)
        self._lengths_U = np.zeros(len(users.ids), np.int32)
        self._counts_I = np.zeros(items.table.num_rows, np.int64)
        self._truth = _Rows(*(np.zeros(0, np.int32),) * 3)
        if held_out is not None:
            rows = self._read(held_out.day)
            self._truth = rows.take(self._kept(held_out, rows))
        self.num_measured = len(self._truth.users)
        sizes = {day: self._num_learned(part) for day, part in sorted(self._parts.items())}
        self.num_examples = sum(sizes.values())
        self.first_day = next((day for day, size in sizes.items() if size), None)
        # What those who are measured on have seen: pairs of user and item.
        self._is_asked_U = np.zeros(len(users.ids), bool)
        self._is_asked_U[self._truth.users] = True
        self._seen = Distinct()

    def examples(self, size: int) -> Iterator[Chunk]:
        """Yield the examples in the order of time, `size` at a time and the rest at the end; one chunk at least.

        What else there is to ask is known once all were taken.
        """
        waiting, room = list[Chunk](), size
        for day, rows in self._past():
            if self._popular_since is None or day >= self._popular_since:
                self._counts_I += np.bincount(rows.items, minlength=len(self._counts_I))
            asked = rows.take(self._is_asked_U[rows.users])
            self._seen.add(asked.users.astype(np.int64) * len(self._counts_I) + asked.items)
            histories, learned = self._carry(rows), self._learned(day, rows)
            while len(learned):
                chosen, learned = learned[:room], learned[room:]
                waiting.append(Chunk(*rows.take(chosen), histories(chosen)))
                room -= len(chosen)
                if not room:
                    yield Chunk.joined(waiting)
                    waiting, room = [], size
        if waiting or not self.num_examples:
            nothing = Chunk(*self._truth.take(np.zeros(0, np.intp)), Jagged(*(np.zeros(0, np.int32),) * 2))
            yield Chunk.joined(waiting or [nothing])

    def counts(self) -> np.ndarray:
        """Return how often each item was taken, int64 [I]."""
        return self._counts_I

    def at_end(self, users: np.ndarray) -> Jagged:
        """Return the histories of users [B] when the past has ended."""
        lengths = self._lengths_U[users]
        return Jagged(self._items_UL[np.repeat(users, lengths), spans(np.zeros_like(lengths), lengths)], lengths)

    def seen(self, users: np.ndarray) -> Jagged:
        """Return the distinct items of users [B] of the ground truth, ever in the past, by rising code."""
        pairs, num_items = self._seen.values(), len(self._counts_I)
        starts, ends = (np.searchsorted(pairs, (users.astype(np.int64) + more) * num_items) for more in (0, 1))
        lengths = (ends - starts).astype(np.int32)
        return Jagged((pairs[spans(starts, ends - starts)] % num_items).astype(np.int32), lengths)

    def ground_truth(self) -> tuple[np.ndarray, Jagged]:
        """Return the users [B] of the ground truth, by rising code, and the distinct items of each."""
        return grouped(self._truth.users, self._truth.items)

    def _past(self) -> Iterator[tuple[datetime.date, _Rows]]:
        """Yield each day's rows but those that are measured on."""
        for count in sorted(self._dataset.days, key=lambda count: count.day):
            if count.day > self._until or not count.num_interactions:
                continue
            rows = self._read(count.day)
            if self._held_out is not None and count.day == self._held_out.day:
                rows = rows.take(~self._kept(self._held_out, rows))
            yield count.day, rows

    def _read(self, day: datetime.date) -> _Rows:
        days = tuple(count for count in self._dataset.days if count.day == day)
        of_day = self._dataset.model_copy(update={"days": days})
        table, _ = read(of_day, "interactions", day, ["user_id", "item_id", "timestamp"])
        seconds = table["timestamp"].to_numpy()
        users, items = self._codes["users"].of(table["user_id"]), self._codes["items"].of(table["item_id"])
        return _Rows(users, items, seconds).take(np.argsort(seconds, kind="stable"))

    def _kept(self, part: Part, rows: _Rows) -> np.ndarray:
        if part.is_whole:
            return np.ones(len(rows.users), bool)
        return division.kept(part, rows.seconds, rows.users, self._users)

    def _learned(self, day: datetime.date, rows: _Rows) -> np.ndarray:
        """Return which of a day's past is learned from, by number."""
        part = self._parts.get(day)
        return np.zeros(0, np.intp) if part is None else np.flatnonzero(self._kept(part, rows))

    def _num_learned(self, part: Part) -> int:
        if part.is_whole:
            return sum(count.num_interactions for count in self._dataset.days if count.day == part.day)
        rows = self._read(part.day)
        if self._held_out is not None and part.day == self._held_out.day:
            rows = rows.take(~self._kept(self._held_out, rows))
        return int(self._kept(part, rows).sum())

    def _carry(self, rows: _Rows) -> Callable[[np.ndarray], Jagged]:
        """Carry what the users did last on to the end of the day; return what gives its rows [B] their histories.

        What each user of the day did last is laid out before what the user does on it:

            user             7  7  7  7  7 | 8
            seconds          .  .  5  5  9 | 5       of 7 two are carried from earlier days, of 8 none
            a history ends         2  2  4 | 5       where the run of the same second begins (`before`)
        """
        order = np.argsort(rows.users, kind="stable")
        users, seconds = rows.users[order], rows.seconds[order]
        is_first = np.ones(len(users), bool)
        is_first[1:] = users[1:] != users[:-1]
        firsts = np.flatnonzero(is_first)
        active_A = users[firsts]
        new_A = np.diff(firsts, append=len(users)).astype(np.int64)
        old_A = self._lengths_U[active_A].astype(np.int64)
        ends_A = np.cumsum(old_A + new_A)
        starts_A = ends_A - old_A - new_A
        laid = np.empty(int(ends_A[-1]) if len(ends_A) else 0, np.int32)
        carried = spans(np.zeros_like(old_A), old_A)
        laid[spans(starts_A, old_A)] = self._items_UL[np.repeat(active_A, old_A), carried]
        places = spans(starts_A + old_A, new_A)
        laid[places] = rows.items[order]
        if self._mode == "before":
            begins = is_first.copy()
            begins[1:] |= seconds[1:] != seconds[:-1]
            places = np.maximum.accumulate(np.where(begins, places, 0))
        starts_R, ends_R = np.empty(len(users), np.int64), np.empty(len(users), np.int64)
        starts_R[order], ends_R[order] = np.repeat(starts_A, new_A), places
        kept_A = np.minimum(old_A + new_A, self._max_length)
        columns = spans(np.zeros_like(kept_A), kept_A)
        self._items_UL[np.repeat(active_A, kept_A), columns] = laid[spans(ends_A - kept_A, kept_A)]
        self._lengths_U[active_A] = kept_A

        def histories(chosen: np.ndarray) -> Jagged:
            ends = ends_R[chosen]
            starts = np.maximum(starts_R[chosen], ends - self._max_length)
            return Jagged(laid[spans(starts, ends - starts)], (ends - starts).astype(np.int32))

        return histories


class Distinct:
    """Distinct whole numbers that come in parts; memory holds each twice at most, and what one part has."""

    _FEWEST = 1 << 20

    def __init__(self) -> None:
        """Start without any."""
        self._known, self._waiting, self._num_waiting = np.zeros(0, np.int64), list[np.ndarray](), 0

    def add(self, values: np.ndarray) -> None:
        """Take note of `values`, int64."""
        self._waiting.append(values)
        self._num_waiting += len(values)
        if self._num_waiting > max(self._FEWEST, len(self._known)):
            self.values()

    def values(self) -> np.ndarray:
        """Return those so far, rising."""
        if self._waiting:
            merged = np.sort(np.concatenate([self._known, *self._waiting]))
            is_new = np.ones(len(merged), bool)
            is_new[1:] = merged[1:] != merged[:-1]
            self._known, self._waiting, self._num_waiting = merged[is_new], [], 0
        return self._known


class _Codes:
    """Codes of ids. Whole numbers that lie close together are looked up in a table, which is faster than hashing."""

    def __init__(self, known: pa.Array, table: str) -> None:
        """`known` are the ids by code, of the log's `table`."""
        self._known, self._table = known, table
        self._at: np.ndarray | None = None
        numbers = ids(known)
        if pa.types.is_integer(numbers.type) and len(numbers):
            values = numbers.to_numpy()
            self._first, last = int(values.min()), int(values.max())
            if last - self._first < _SPARSEST * len(values):
                self._at = np.full(last - self._first + 1, -1, np.int32)
                self._at[values - self._first] = np.arange(len(values), dtype=np.int32)

    def of(self, values: pa.ChunkedArray) -> np.ndarray:
        """Return the codes, int32.

        Raises:
            ValueError: an id is not in the table; names it.
        """
        if self._at is not None and pa.types.is_integer((found := ids(values)).type):
            places = found.to_numpy() - self._first
            if not len(places) or (places.min() >= 0 and places.max() < len(self._at)):
                codes = self._at[places]
                if (codes >= 0).all():
                    return codes
        return codes_of(values, self._known, self._table)
