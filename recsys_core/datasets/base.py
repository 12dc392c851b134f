"""Where a log comes from: the contract of this catalogue, and the writer of the daily layout.

A kind has a `Config`. A kind that is not already in the daily layout also has
`write(config, root: Path, sink: progress.Sink) -> Counts`, which streams its source into a `LogWriter(root)`. One whose
source is not files has `fingerprint(config) -> str` as well. One whose source may be parted by day has
`days(config, first, last)` and `write_day(config, parts, root, sink)` too, see `tables`.
"""

import datetime
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import RootModel

from recsys_core.artifacts import ComponentConfig, write_text
from recsys_core.integrity import DamagedError, read_record

STAGE = "ingest"
DAY_SECONDS = 86_400
ROW_GROUP_ROWS = 1 << 16
_SPILL_BYTES = 256 << 20
_EPOCH = datetime.date(1970, 1, 1)
_WRITTEN = ".rows.json"


class Config(ComponentConfig):
    """One kind's YAML section. Each kind narrows `source` to what it can read.

    `in_place` kinds are read where they lie; the others are imported once and their result is kept.
    """

    in_place: ClassVar[bool] = False

    source: Any


def day_number(day: datetime.date) -> int:
    """Return the days since 1970-01-01."""
    return (day - _EPOCH).days


def day_of(number: int) -> datetime.date:
    """Return the date that is `number` days after 1970-01-01."""
    return _EPOCH + datetime.timedelta(days=number)


def day_after(day: datetime.date) -> datetime.date:
    """Return the next day.

    Raises:
        ValueError: `day` is the last that there is, 9999-12-31.
    """
    if day == datetime.date.max:
        raise ValueError(
            f"day {day}: no day comes after it, and a run is measured on the next one; name an earlier day"
        )
    return day + datetime.timedelta(days=1)


def days_before(day: datetime.date, number: int) -> datetime.date:
    """Return the day that is `number` days before `day`, or the first that there is, 0001-01-01."""
    return datetime.date.fromordinal(max(day.toordinal() - number, 1))


def partition(day: datetime.date) -> str:
    """Return the Hive folder's name of `day`."""
    return f"ds={day.isoformat()}"


class Counts(NamedTuple):
    """What a log holds. `num_users` and `num_items` count rows: a user who changed counts each time."""

    first_day: datetime.date
    last_day: datetime.date
    num_days: int
    num_interactions: int
    num_users: int
    num_items: int


class FirstDays:
    """The first day on which each id appears, over any number of additions; memory is one row per distinct id."""

    _COMPACT_ROWS = 1 << 20

    def __init__(self) -> None:
        """Start without ids."""
        self._tables: list[pa.Table] = []
        self._pending_rows = 0

    def add(self, ids: pa.ChunkedArray, days: pa.ChunkedArray | pa.Array) -> None:
        """Take note of `ids[i]` on `days[i]` (day numbers, int32)."""
        self._tables.append(pa.table({"id": ids, "day": days}).group_by("id").aggregate([("day", "min")]))
        self._pending_rows += self._tables[-1].num_rows
        if self._pending_rows > max(self._COMPACT_ROWS, self._tables[0].num_rows):
            self.table()

    def table(self) -> pa.Table:
        """Return columns `id` and `day_min`, one row per id in no particular order."""
        if not self._tables:
            return pa.table({"id": pa.array([], pa.int64()), "day_min": pa.array([], pa.int32())})
        merged = pa.concat_tables(self._tables).rename_columns(["id", "day"])
        self._tables = [merged.group_by("id").aggregate([("day", "min")])]
        self._pending_rows = 0
        return self._tables[0]


class LogWriter:
    """Writes a log in the daily layout below `root`, which no process reads before it is complete.

    Interactions may come in any order: they are collected by day and by `slices_per_day` equal stretches of it, spilt
    to disk when they are many, and sorted when the day is closed. So memory holds one slice of one day, and each slice
    becomes one file, in the order of time.

    Of one second they are sorted by user and item, or `keeps_order`: they stand as they came.
    """

    def __init__(self, root: Path, slices_per_day: int = 1, *, keeps_order: bool = False) -> None:
        """`root` is an empty or absent directory."""
        self.root = root
        self._sorted_by = [("timestamp", "ascending")]
        if not keeps_order:
            self._sorted_by += [("user_id", "ascending"), ("item_id", "ascending")]
        self.slices_per_day = slices_per_day
        self.scratch = root / ".scratch"
        self.scratch.mkdir(parents=True)
        self._buffers: dict[int, list[pa.Table]] = {}
        self._buffered_bytes = 0
        self._spilt: set[int] = set()
        # By table and day.
        self._rows: dict[str, dict[str, int]] = {"interactions": {}, "users": {}, "items": {}}
        self._added = 0

    def add_interactions(self, table: pa.Table) -> None:
        """Take columns user_id, item_id, timestamp (int64, Unix seconds) and any others, in any order of rows."""
        assert set(table.column_names) >= {"user_id", "item_id", "timestamp"}
        self._added += table.num_rows
        seconds = table["timestamp"].to_numpy()
        slices = (
            seconds // DAY_SECONDS * self.slices_per_day + seconds % DAY_SECONDS * self.slices_per_day // DAY_SECONDS
        )
        order = np.argsort(slices, kind="stable")
        keys, starts = np.unique(slices[order], return_index=True)
        ordered = table.take(pa.array(order))
        for key, start, stop in zip(keys, starts, [*starts[1:], len(order)], strict=True):
            self._buffers.setdefault(int(key), []).append(ordered.slice(start, stop - start))
        self._buffered_bytes += table.nbytes
        if self._buffered_bytes > _SPILL_BYTES:
            self._spill()

    def write_rows(self, name: str, day: datetime.date, tables: Iterable[pa.Table]) -> None:
        """Write the partition `day` of table `name`, users or items; no rows, no partition. Call once for each."""
        rows = write_parquet(self.root / name / partition(day) / "part-00000.parquet", tables)
        if rows:
            self._rows[name][str(day)] = rows

    def close_day(self, day: datetime.date) -> None:
        """Sort and write the interactions of `day`; none may be added to it afterwards."""
        first = day_number(day) * self.slices_per_day
        keys = [key for key in range(first, first + self.slices_per_day) if key in self._buffers or key in self._spilt]
        num_rows = 0
        for number, key in enumerate(keys):
            table = pa.concat_tables([*self._unspill(key), *self._buffers.pop(key, [])])
            self._buffered_bytes = sum(kept.nbytes for tables in self._buffers.values() for kept in tables)
            # Arrow's sort is stable.
            ordered = table.sort_by(self._sorted_by)
            path = self.root / "interactions" / partition(day) / f"part-{number:05d}.parquet"
            num_rows += write_parquet(path, [ordered])
        if num_rows:
            self._rows["interactions"][str(day)] = num_rows

    def close(self) -> Counts:
        """Write the days that are still open, and remove the scratch files.

        Raises:
            ValueError: there are no interactions.
        """
        if (counts := self.close_any()) is None:
            raise ValueError("the source holds no interactions; is it complete?")
        return counts

    def close_any(self) -> Counts | None:
        """Close as `close` does; return None if there are no interactions."""
        for number in sorted({key // self.slices_per_day for key in (*self._buffers, *self._spilt)}):
            self.close_day(day_of(number))
        shutil.rmtree(self.scratch)
        interactions, users, items = (sum(rows.values()) for rows in self._rows.values())
        assert interactions == self._added, f"{interactions} interactions were written of {self._added}"
        write_text(self.root / _WRITTEN, json.dumps(self._rows))
        days = sorted(map(datetime.date.fromisoformat, self._rows["interactions"]))
        return Counts(days[0], days[-1], len(days), interactions, users, items) if days else None

    def _spill(self) -> None:
        # Streams of one schema can lie one after another in a file, so no file stays open between two spills.
        for key, tables in self._buffers.items():
            with (self.scratch / str(key)).open("ab") as file, pa.ipc.new_stream(file, tables[0].schema) as stream:
                for table in tables:
                    stream.write_table(table)
        self._spilt.update(self._buffers)
        self._buffers.clear()
        self._buffered_bytes = 0

    def _unspill(self, key: int) -> Iterator[pa.Table]:
        if key not in self._spilt:
            return
        path = self.scratch / str(key)
        with path.open("rb") as file:
            while file.peek(1):
                yield pa.ipc.open_stream(file).read_all()
        path.unlink()
        self._spilt.remove(key)


def written_rows(root: Path) -> dict[str, dict[str, int]]:
    """Return how many rows a `LogWriter` wrote below `root`, by table and day; nothing, if none did.

    Raises:
        ValueError: what it wrote of that is damaged.
    """
    path = root / _WRITTEN
    try:
        return read_record(_Written, path).root if path.exists() else {}
    except DamagedError as error:
        raise ValueError(f"{error}; remove {root}, and run again to import it anew") from None


class _Written(RootModel[dict[str, dict[str, int]]]):
    """Rows by table and day."""


def write_parquet(path: Path, tables: Iterable[pa.Table]) -> int:
    """Write `tables` as one Parquet file of even row groups and return its rows; without rows there is no file."""
    num_rows = 0
    writer: pq.ParquetWriter | None = None
    try:
        for table in _regrouped(tables):
            if writer is None:
                path.parent.mkdir(parents=True, exist_ok=True)
                writer = pq.ParquetWriter(path, table.schema, compression="zstd")
            writer.write_table(table, row_group_size=ROW_GROUP_ROWS)
            num_rows += table.num_rows
    finally:
        if writer is not None:
            writer.close()
    if num_rows:
        with path.open("rb") as file:
            os.fsync(file.fileno())
    return num_rows


def _regrouped(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Cut and join `tables` so that each but the last holds whole row groups."""
    waiting: list[pa.Table] = []
    num_rows = 0
    for table in tables:
        waiting.append(table)
        num_rows += table.num_rows
        if num_rows >= ROW_GROUP_ROWS:
            joined = pa.concat_tables(waiting)
            whole = num_rows - num_rows % ROW_GROUP_ROWS
            yield joined.slice(0, whole)
            waiting, num_rows = [joined.slice(whole)], num_rows - whole
    if num_rows:
        yield pa.concat_tables(waiting)


def write_known(log: LogWriter, name: str, table: pa.Table, first: FirstDays) -> None:
    """Write users or items, each in the partition of the first day that `first` knows it to act on.

    Rows that never act go to the first of these days. `table`'s first column is the id.
    """
    known = first.table()
    days = known["day_min"].take(pc.index_in(table.column(0), value_set=known["id"]))
    days = days.fill_null(pc.min(known["day_min"]))
    for number in sorted(days.unique().to_pylist()):
        log.write_rows(name, day_of(number), [table.filter(pc.equal(days, number))])
