"""Logs of which there are interactions and nothing else: users and items are the ids that act."""

import datetime
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys_core import columns
from recsys_core.datasets import _rows, base
from recsys_core.progress import Event, Sink
from recsys_core.readers import Reader

ACTING = ("user_id", "item_id", "timestamp")
FIRST_DAY = datetime.date(2000, 1, 1)
"""What lines without times are dated from, if nothing else is said."""
RATING = "rating"


class Bare:
    """Writes a log, and takes note of who and what is first seen when.

    Attributes:
        log: interactions of one second stand in it as they came.
        users, items: the first day of each id.
    """

    def __init__(self, log: base.LogWriter) -> None:
        """`log` keeps the order."""
        self.log = log
        self.users, self.items = base.FirstDays(), base.FirstDays()

    def add(self, rows: pa.Table, *, known_on: int | None = None) -> None:
        """Take interactions; their users and items are known from that day (number) on, or from their own."""
        if not len(rows):
            return
        days = pa.array(rows["timestamp"].to_numpy() // base.DAY_SECONDS, pa.int32())
        if known_on is not None:
            days = pa.repeat(pa.scalar(known_on, pa.int32()), len(rows))
        self.users.add(rows["user_id"], days)
        self.items.add(rows["item_id"], days)
        self.log.add_interactions(rows)

    def close(self, users: pa.Table | None = None, items: pa.Table | None = None) -> base.Counts:
        """Write what is known of users and items, by default their ids, and close the log.

        Raises:
            ValueError: there are no interactions.
        """
        for name, column, first, given in (
            ("users", "user_id", self.users, users),
            ("items", "item_id", self.items, items),
        ):
            ids = first.table()["id"]
            known = pa.table({column: ids.take(pc.sort_indices(ids))}) if given is None else given
            if len(ids):
                base.write_known(self.log, name, known, first)
        return self.log.close()


class Places:
    """Where interactions stand in their users' order; memory is one number per distinct user."""

    def __init__(self) -> None:
        """No user has any."""
        self._counts: dict[int | str, int] = {}

    def of(self, users: pa.ChunkedArray) -> np.ndarray:
        """Return int64 [N], how many interactions each one's user [N] had before it; they count from now on."""
        encoded = users.combine_chunks().dictionary_encode()
        codes, known = encoded.indices.to_numpy(), encoded.dictionary.to_pylist()
        counts = np.bincount(codes, minlength=len(known))
        before = np.array([self._counts.get(user, 0) for user in known], np.int64)
        order = np.argsort(codes, kind="stable")
        found = np.empty(len(codes), np.int64)
        found[order] = np.arange(len(codes)) - np.repeat(np.cumsum(counts) - counts - before, counts)
        self._counts.update(zip(known, (before + counts).tolist(), strict=True))
        return found


def read(
    bare: Bare,
    reader: Reader,
    names: Mapping[str, str],
    min_rating: float | None,
    sink: Sink,
    first_day: datetime.date = FIRST_DAY,
) -> None:
    """Pass the rows of `reader` to `bare`; `names` are its columns that are read, and what they are in the log.

    Without a time, each user's stand in their order, and follow from midnight of `first_day` on, a second apart.

    Raises:
        ValueError: a row has no id or time, or its rating is no number, or no row is left; names the file and the row.
    """
    notes, done, left = _rows.Notes(), 0, 0
    places = None if "timestamp" in names.values() else Places()
    first = base.day_number(first_day)
    for block in range(len(reader.block_rows)):
        place = reader.place(block)
        rows = reader.read(block, list(names)).rename_columns(list(names.values()))
        done += rows.num_rows
        rows = _rows.converted(rows, "interactions", place.path, place.first_row, notes)
        for name in (name for name in ACTING if name in rows.column_names):
            _refuse_null(rows[name], name, place.path, place.first_row)
        if places is not None:
            times = pa.array(places.of(rows["user_id"]) + first * base.DAY_SECONDS)
            rows = rows.append_column("timestamp", times)
        if RATING in rows.column_names:
            rating = _rows.of_column(_number, rows[RATING], RATING, place.path, place.first_row)
            rows = rows.set_column(rows.column_names.index(RATING), RATING, rating)
        if min_rating is not None:
            _refuse_null(rows[RATING], RATING, place.path, place.first_row)
            rows = rows.filter(pc.greater_equal(rows[RATING], min_rating))
        bare.add(rows, known_on=None if places is None else first)
        left += rows.num_rows
        sink(Event(stage=base.STAGE, done=done, total=reader.num_rows, message="reading interactions"))
    if done and not left:
        raise ValueError(f"no interaction of {done} has a rating of {min_rating:g} or more; lower min_rating")
    notes.emit(sink, base.STAGE)


def _refuse_null(column: pa.ChunkedArray, name: str, place: str, first_row: int) -> None:
    if column.null_count:
        row = first_row + pc.index(column.is_null(), pa.scalar(True)).as_py()  # noqa: FBT003 - a value
        raise ValueError(f"{place}: column {name!r}, row {row}: there is no value; leave such rows out")


def _number(values: pa.Array) -> pa.Array:
    return columns.cast(values, pa.float64(), lambda value: f"{columns.shown(value)} is no number").cast(pa.float32())
