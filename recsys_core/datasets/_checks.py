"""What a log must hold before anything is trained on it. Each refusal names the file, the column and the way out."""

import datetime
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from recsys_core import columns, uri
from recsys_core.artifacts import DayCount, FileRecord, digest_of_file
from recsys_core.datasets import _rows, base, daily
from recsys_core.datasets._rows import IDS, TIME
from recsys_core.progress import Event, Sink

_NUM_EXAMPLES = 3
_MAX_ID = 40
_FIRST_SECOND = base.day_number(datetime.date.min) * base.DAY_SECONDS

_ACTING = ["user_id", "item_id", TIME]

Name = Callable[[str, Path | None], str]
"""What the log's user calls a table, or a file of it: not the copy, if it was imported."""

Partitions = dict[datetime.date, list[Path]]


class Checked(NamedTuple):
    """What was found: rows by day, column types by table, and every file read with its digest."""

    days: tuple[DayCount, ...]
    columns: dict[str, dict[str, str]]
    files: tuple[FileRecord, ...]


def check(root: Path, last: datetime.date, sink: Sink, name: Name | None = None) -> Checked:
    """Read all partitions up to `last` once and refuse what would train a wrong model silently.

    `name` says what tables and files are called in messages, by default by their paths.

    Raises:
        ValueError: the first thing found wrong: an unreadable file, a column that is missing or of another type,
            partitions of different schemas, null ids, times outside their day, an id twice in a day's users or items,
            or interactions of a user or item that is not known by that day.
    """
    name = name or _by_path(root)
    tables = {table: _until(daily.partitions(root, table), last) for table in daily.TABLES}
    schemas = {table: _schema(root, table, partitions, name) for table, partitions in tables.items()}
    for table, column in (("users", "user_id"), ("items", "item_id")):
        found, needed = (schemas[one].field(column).type for one in (table, "interactions"))
        if found != needed:
            raise ValueError(
                f"{name('interactions', None)}: {column} is {needed} in interactions and {found} in {table} "
                f"({name(table, None)}); write both alike"
            )
    notes = _rows.Notes()
    progress = _Progress(sink, sum(daily.num_rows(paths) for part in tables.values() for paths in part.values()))
    acting = {"user_id": base.FirstDays(), "item_id": base.FirstDays()}
    known = {"user_id": base.FirstDays(), "item_id": base.FirstDays()}
    for day, paths in tables["interactions"].items():
        for path in paths:
            place = name("interactions", path)
            read = _rows.read(root, "interactions", path, _ACTING, place=place, notes=notes)
            for rows, batch in _numbered(progress.of(read)):
                _refuse_null(place, rows, batch, _ACTING)
                _refuse_other_day(place, rows, batch[TIME], day)
                for column, first in acting.items():
                    first.add(batch[column], pa.repeat(pa.scalar(base.day_number(day), pa.int32()), batch.num_rows))
    for table, column in (("users", "user_id"), ("items", "item_id")):
        for day, paths in tables[table].items():
            if not paths:
                continue
            ids = _distinct_ids(root, table, paths, progress, name, notes)
            known[column].add(ids, pa.repeat(pa.scalar(base.day_number(day), pa.int32()), len(ids)))
        _refuse_unknown(name("interactions", None), table, acting[column], known[column], column)
    notes.emit(sink, base.STAGE)
    return Checked(
        days=tuple(_counts(tables, day) for day in sorted(set().union(*tables.values()))),
        columns={name: {field.name: str(field.type) for field in schema} for name, schema in schemas.items()},
        files=tuple(
            FileRecord(path=str(path.relative_to(root)), num_bytes=path.stat().st_size, digest=digest_of_file(path))
            for partitions in tables.values()
            for paths in partitions.values()
            for path in paths
        ),
    )


class _Progress:
    """Counts the rows that pass by."""

    def __init__(self, sink: Sink, total: int) -> None:
        self._sink, self._total, self._done = sink, total, 0

    def of(self, batches: Iterator[pa.Table]) -> Iterator[pa.Table]:
        for batch in batches:
            self._done += batch.num_rows
            self._sink(Event(stage=base.STAGE, done=self._done, total=self._total, message="checking the log"))
            yield batch


def _until(partitions: Partitions, last: datetime.date) -> Partitions:
    return {day: paths for day, paths in partitions.items() if day <= last}


def _counts(tables: dict[str, Partitions], day: datetime.date) -> DayCount:
    interactions, users, items = (daily.num_rows(tables[name].get(day, [])) for name in daily.TABLES)
    return DayCount(day=day, num_interactions=interactions, num_users=users, num_items=items)


def _by_path(root: Path) -> Name:
    return lambda _, path: str(path or root)


def _schema(root: Path, table: str, partitions: Partitions, name: Name) -> pa.Schema:
    """Return the schema in which all files of `table` are read.

    A key of the folders is a column if the folders of every file have it: some days may lie in hours, and others not.
    """
    first: str | None = None
    by_folder: set[str] = set()
    found: dict[str, pa.DataType] = {}
    for path in (path for paths in partitions.values() for path in paths):
        schema, place = daily.schema(root, path), name(table, path)
        columns.refuse_twice(place, schema.names)
        _refuse_wrong_columns(place, table, schema)
        own = {field.name: _rows.canonical(table, field.name, field.type) for field in schema}
        by_folder |= daily.folder_columns(root, path).keys()
        if first is None:
            first, found = place, own
        for column in dict.fromkeys([*found, *own]):
            kinds = [found.get(column), own.get(column)]
            if None in kinds and column in by_folder:
                found.pop(column, None)
                continue
            both = None if None in kinds else columns.united(*kinds)
            if both is None:
                own, there = ("absent" if kind is None else str(kind) for kind in reversed(kinds))
                raise ValueError(
                    f"{place}: column {column!r} is {own} here and {there} in {first}; "
                    f"write all partitions of {table} with the same columns"
                )
            found[column] = both
    if first is None:
        raise ValueError(
            f"{name(table, None)}: {table} has no file in any partition up to {max(partitions, default='that day')}"
        )
    return pa.schema(list(found.items()))


def _refuse_wrong_columns(place: str, table: str, schema: pa.Schema) -> None:
    for column in (*IDS[table], *((TIME,) if table == "interactions" else ())):
        if column not in schema.names:
            raise ValueError(
                f"{place}: {table} has no column {column!r}, only {', '.join(schema.names)}"
                + uri.nearest(column, schema.names)
            )
        kind = schema.field(column).type
        if column == TIME and not columns.is_time(kind):
            raise ValueError(f"{place}: column {column!r} is {kind}, which holds no times; write Unix seconds in UTC")
        if column != TIME and not columns.is_id(kind):
            raise ValueError(f"{place}: column {column!r} is {kind}, which holds no ids; write int64 or string")


def _numbered(batches: Iterator[pa.Table]) -> Iterator[tuple[str, pa.Table]]:
    """Yield the batches of a file, each with its rows' numbers in words."""
    start = 0
    for batch in batches:
        yield f"{start} to {start + batch.num_rows}", batch
        start += batch.num_rows


def _refuse_null(place: str, rows: str, batch: pa.Table, names: list[str]) -> None:
    for name in names:
        if nulls := batch[name].null_count:
            raise ValueError(f"{place}: column {name!r} is null in {nulls} rows of {rows}; leave those rows out")


def _refuse_other_day(place: str, rows: str, timestamps: pa.ChunkedArray, day: datetime.date) -> None:
    midnight = base.day_number(day) * base.DAY_SECONDS
    outside = timestamps.filter(
        pc.or_(pc.less(timestamps, midnight), pc.greater_equal(timestamps, midnight + base.DAY_SECONDS))
    )
    if len(outside):
        example = outside[0].as_py()
        at = datetime.datetime(1, 1, 1) + datetime.timedelta(seconds=example - _FIRST_SECOND)  # noqa: DTZ001 - UTC
        raise ValueError(
            f"{place}: {len(outside)} timestamps of rows {rows} are not on {day} in UTC, such as {example} ({at}); "
            f"that day is {midnight} and the next 86,400 s"
        )


def _distinct_ids(
    root: Path, table: str, paths: list[Path], progress: _Progress, name: Name, notes: _rows.Notes
) -> pa.ChunkedArray:
    """Return the ids of one day's users or items, having read every column once to see that none is damaged."""
    ids = pa.chunked_array([], pa.null())
    (column,) = IDS[table]
    for path in paths:
        place = name(table, path)
        for rows, batch in _numbered(progress.of(_rows.read(root, table, path, place=place, notes=notes))):
            _refuse_null(place, rows, batch, [column])
            ids = pa.chunked_array([*ids.chunks, *batch[column].chunks])
    twice = (
        [count["values"] for count in pc.value_counts(ids).to_pylist() if count["counts"] > 1] if _repeats(ids) else []
    )
    if twice:
        # A day may have several files; of an imported one the source is named.
        place = name(table, paths[0]) if name(table, None) != str(root) else str(paths[0].parent)
        raise ValueError(
            f"{place}: {len(twice)} ids stand more than once in {table}, "
            f"such as {_some(sorted(twice))}; keep one row per {column} and day"
        )
    return ids


def _repeats(ids: pa.ChunkedArray) -> bool:
    return pc.count_distinct(ids).as_py() < len(ids)


def _refuse_unknown(place: str, table: str, acting: base.FirstDays, known: base.FirstDays, name: str) -> None:
    first_act, first_known = acting.table(), known.table()
    known_day = first_known["day_min"].take(pc.index_in(first_act["id"], value_set=first_known["id"]))
    late = pc.fill_null(pc.greater(known_day, first_act["day_min"]), fill_value=True)
    if not pc.any(late).as_py():
        return
    wrong = first_act.append_column("known", known_day).filter(late).sort_by("id")
    examples = [
        f"{_shown(row['id'])} acts on {base.day_of(row['day_min'])} but is "
        + ("in no partition" if row["known"] is None else f"first known on {base.day_of(row['known'])}")
        for row in wrong.slice(0, _NUM_EXAMPLES).to_pylist()
    ]
    raise ValueError(
        f"{place}: interactions name {wrong.num_rows} ids that {table} does not know by then "
        f"({name} {'; '.join(examples)}); add their rows to {table} on or before that day"
    )


def _some(values: list[int | str]) -> str:
    return ", ".join(map(_shown, values[:_NUM_EXAMPLES]))


def _shown(value: int | str) -> str:
    return value if isinstance(value, str) and value.isprintable() and len(value) < _MAX_ID else columns.shown(value)
