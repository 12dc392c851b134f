"""Which rows a day's run learns from and which it is measured on, so that no row is learned from twice or left out.

A day's rows are divided by their hash or by their time: the same rows in every process and on every run.
"""

import datetime
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys_core import columns, uri
from recsys_core.artifacts import Holdout, Learned, NextDay, Rows, Split, Tail
from recsys_core.columns import RowError
from recsys_core.datasets.base import DAY_SECONDS, day_after, day_number, days_before
from recsys_core.features.hashing import hashed

# Part of every hashed value: a feature that hashes the same column must not find the held-out ones in buckets of their
# own.
_SALT = "dayline holdout "


class Part(NamedTuple):
    """Rows of one day: those that `only` selects (None: all of them), without those that `but` selects (None: none)."""

    day: datetime.date
    only: Holdout | None = None
    but: Holdout | None = None

    @property
    def is_whole(self) -> bool:
        """Whether it is all rows of the day."""
        return self.only is None and self.but is None


class Plan(NamedTuple):
    """`train` is learned from, in this order, and `held_out` measured on; `learned` is the record of the state then."""

    train: tuple[Part, ...]
    held_out: Part
    learned: Learned


def selected(holdout: Holdout, table: pa.Table, day: datetime.date, time_column: str | None) -> np.ndarray:
    """Return bool [N]: which rows of `day` a holdout selects. Of a column `by`, null is a value that is never selected.

    What a `Split` selects follows from no day alone: see `splits.divide`.

    Raises:
        RowError: a time is null, or not of the day.
        ValueError: a column is missing, or holds neither times nor keys.
    """
    assert not isinstance(holdout, Split), "of a whole log"
    if isinstance(holdout, Tail):
        assert time_column is not None, "config asks for it"
        seconds = of_day(_column(table, time_column, "data.time_column"), time_column, day)
        return seconds >= (day_number(day) + 1) * DAY_SECONDS - holdout.hours * 3_600
    if isinstance(holdout, Rows):
        keys = _column(table, holdout.by, "holdout.by")
        try:
            texts = columns.by_chunk(columns.ids, keys).combine_chunks().cast(pa.string())
        except RowError as error:
            raise RowError(error.row, f"column {holdout.by!r}: {error.reason}") from None
        except ValueError as error:
            raise ValueError(f"column {holdout.by!r}: {error}") from None
        salted = pc.binary_join_element_wise(pa.scalar(_SALT), texts.fill_null(""), "")
        return (hashed(salted, "xxh3") < np.uint64(holdout.share * 2.0**64)) & texts.is_valid().to_numpy(
            zero_copy_only=False
        )
    return np.zeros(table.num_rows, dtype=bool)


def of_day(times: pa.ChunkedArray, name: str, day: datetime.date) -> np.ndarray:
    """Return int64 [N], the Unix seconds of column `name`, all of which lie in `day`.

    Raises:
        RowError: a time is null, none, or of another day.
        ValueError: the column's type holds no times.
    """
    try:
        seconds = columns.by_chunk(lambda chunk: columns.seconds(chunk).seconds, times)
    except RowError as error:
        raise RowError(error.row, f"column {name!r}: {error.reason}") from None
    except ValueError as error:
        raise ValueError(f"column {name!r}: {error}") from None
    if seconds.null_count:
        row = pc.index(seconds.is_null(), pa.scalar(True)).as_py()  # noqa: FBT003
        raise RowError(row, f"column {name!r} is null; data.time_column is the time of every row")
    found = seconds.to_numpy()
    outside = found // DAY_SECONDS != day_number(day)
    if outside.any():
        row = int(np.argmax(outside))
        at = datetime.datetime.fromtimestamp(int(found[row]), datetime.UTC).strftime("%Y-%m-%d %H:%M:%S")
        raise RowError(row, f"column {name!r} is {at} in UTC, which is not on {day}; write each row in its day")
    return found


def kept(part: Part, table: pa.Table, time_column: str | None) -> np.ndarray:
    """Return bool [N]: which rows of the part's day are of the part.

    Raises:
        ValueError: see `selected`.
    """
    mask = np.ones(table.num_rows, dtype=bool)
    if part.only is not None:
        mask &= selected(part.only, table, part.day, time_column)
    if part.but is not None:
        mask &= ~selected(part.but, table, part.day, time_column)
    return mask


def first_day(day: datetime.date, base: Learned | None, window_days: int | None) -> datetime.date:
    """Return the first day that a run of `day` learns from, if it has rows; of a cold start without a window, any."""
    if base is not None:
        return base.last_day if isinstance(base.withheld, Tail) else min(day, day_after(base.last_day))
    return datetime.date.min if window_days is None else days_before(day, window_days - 1)


def last_day(day: datetime.date, holdout: Holdout) -> datetime.date:
    """Return the last day whose rows a run of `day` needs.

    Raises:
        ValueError: no day comes after it.
    """
    return day_after(day) if isinstance(holdout, NextDay) else day


def plan(
    holdout: Holdout,
    day: datetime.date,
    there: Collection[datetime.date],
    base: Learned | None,
    window_days: int | None,
) -> Plan:
    """Decide what a run of `day` learns from and is measured on; `there` are the days that have a partition.

    A warm start learns from what its base has not: the rows of later days, and a tail that was withheld. What `rows`
    withheld is learned from on no day. Without new rows `train` is empty, and `learned` is the base's.

    Raises:
        ValueError: the base has learned from the rows that are to be measured on, or its withheld tail is gone.
    """
    measured = last_day(day, holdout)
    if base is not None and base.last_day >= measured:
        raise ValueError(
            f"day {day}: it would be measured on rows of {measured}, and the release that is continued has learned "
            f"from the days {base.first_day} to {base.last_day}; run a later day, or train.warm_start: false"
        )
    first = first_day(day, base, window_days)
    new = [at for at in sorted(there) if first <= at <= day and (base is None or at > base.last_day)]
    parts = [Part(at, but=_withheld(holdout, at, day)) for at in new]
    if base is not None and isinstance(base.withheld, Tail):
        if base.last_day not in there:
            raise ValueError(
                f"day {base.last_day}: its last {base.withheld.hours:g} hours are still to be learned from, and it has "
                "no partition any more; bring it back, or start cold with train.warm_start: false"
            )
        parts.insert(0, Part(base.last_day, only=base.withheld))
    return Plan(tuple(parts), held_out(holdout, day), _learned(holdout, new, base))


def held_out(holdout: Holdout, day: datetime.date) -> Part:
    """Return the rows that a run of `day` is measured on."""
    return Part(last_day(day, holdout), only=None if isinstance(holdout, NextDay) else holdout)


def has_learned(learned: Learned, measured: Part) -> bool:
    """Return whether a state has learned from rows of `measured`, or may have."""
    if measured.day > learned.last_day:
        return False
    since = learned.withheld_since
    return since is None or measured.day < since or learned.withheld != measured.only


def absorb(learned: Learned, day: datetime.date, there: Collection[datetime.date]) -> tuple[tuple[Part, ...], Learned]:
    """Return what a state of this record has still to learn from once `day` was measured on, and its record then.

    That is all that was withheld: the measured rows, and what the same holdout withheld on the days before, which are
    learned from in no other run. Where nothing was, all of `day` is. What was withheld of days before those that are
    `there` stays so, and the record begins after them.
    """
    since = learned.withheld_since or day
    days = [at for at in sorted(there) if since <= at <= day]
    first = learned.first_day if min(there) <= since else days[0]
    parts = tuple(Part(at, only=learned.withheld if at <= learned.last_day else None) for at in days)
    return parts, Learned(first_day=first, last_day=day)


def _withheld(holdout: Holdout, at: datetime.date, day: datetime.date) -> Holdout | None:
    """Return which rows of the day `at` a run of `day` does not learn from."""
    if isinstance(holdout, Rows | Split) or (isinstance(holdout, Tail) and at == day):
        return holdout
    return None


def _learned(holdout: Holdout, new: Sequence[datetime.date], base: Learned | None) -> Learned:
    """Return what a state has learned from once it has learned from what `base` had not, and from the days `new`."""
    if base is None:
        known = Learned(first_day=new[0], last_day=new[-1])
    elif isinstance(base.withheld, Tail):
        known = Learned(first_day=base.first_day, last_day=base.last_day)
    else:
        known = base
    if not new:
        return known
    first, since = known.first_day, new[0]
    if isinstance(known.withheld, Rows) and known.withheld == holdout:
        since = known.withheld_since or since
    elif isinstance(known.withheld, Rows | Split):
        # What another holdout withheld stays unlearned, and a record names one: it begins anew.
        first = new[0]
    if isinstance(holdout, NextDay):
        return Learned(first_day=first, last_day=new[-1])
    since = new[-1] if isinstance(holdout, Tail) else since
    return Learned(first_day=first, last_day=new[-1], withheld=holdout, withheld_since=since)


def _column(table: pa.Table, name: str, key: str) -> pa.ChunkedArray:
    if name not in table.column_names:
        near = uri.nearest(name, table.column_names)
        raise ValueError(f"no column {name!r}, which {key} names (there are: {', '.join(table.column_names)}){near}")
    return table.column(name)
