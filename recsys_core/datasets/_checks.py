"""What a log must hold before anything is trained on it. Each refusal names the file, the column and the way out."""

import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from recsys_core import uri
from recsys_core.artifacts import DayCount, FileRecord, digest_of_file
from recsys_core.datasets import base, daily
from recsys_core.progress import Event, Sink

_BATCH_ROWS = 1 << 20
_NUM_EXAMPLES = 3
_IDS = {"interactions": ("user_id", "item_id"), "users": ("user_id",), "items": ("item_id",)}
_ID_TYPES = (pa.int64(), pa.string())

Partitions = dict[datetime.date, list[Path]]


class Checked(NamedTuple):
    """What was found: rows by day, column types by table, and every file read with its digest."""

    days: tuple[DayCount, ...]
    columns: dict[str, dict[str, str]]
    files: tuple[FileRecord, ...]


def check(root: Path, last: datetime.date, sink: Sink) -> Checked:
    """Read all partitions up to `last` once and refuse what would train a wrong model silently.

    Raises:
        ValueError: the first thing found wrong: an unreadable file, a column that is missing or of another type,
            partitions of different schemas, null ids, times outside their day, an id twice in a day's users or items,
            or interactions of somebody or something not known by that day.
    """
    tables = {name: _until(daily.partitions(root, name), last) for name in daily.TABLES}
    schemas = {name: _schema(root, name, partitions) for name, partitions in tables.items()}
    for name in ("user_id", "item_id"):
        found, needed = (
            schemas[f"{name.removesuffix('_id')}s"].field(name).type,
            schemas["interactions"].field(name).type,
        )
        if found != needed:
            raise ValueError(
                f"{root}: {name} is {needed} in interactions and {found} in {name[:-3]}s; write both alike"
            )
    progress = _Progress(sink, sum(daily.num_rows(paths) for part in tables.values() for paths in part.values()))
    acting = {"user_id": base.FirstDays(), "item_id": base.FirstDays()}
    known = {"user_id": base.FirstDays(), "item_id": base.FirstDays()}
    for day, paths in tables["interactions"].items():
        for path in paths:
            for rows, batch in _numbered(progress.of(_read(path, ["user_id", "item_id", "timestamp"]))):
                _refuse_null(path, rows, batch, ["user_id", "item_id", "timestamp"])
                _refuse_other_day(path, rows, batch["timestamp"], day)
                for name, first in acting.items():
                    first.add(batch[name], pa.repeat(pa.scalar(base.day_number(day), pa.int32()), batch.num_rows))
    for table, name in (("users", "user_id"), ("items", "item_id")):
        for day, paths in tables[table].items():
            ids = _distinct_ids(table, name, paths, progress)
            known[name].add(ids, pa.repeat(pa.scalar(base.day_number(day), pa.int32()), len(ids)))
        _refuse_unknown(root, table, acting[name], known[name], name)
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


def _schema(root: Path, table: str, partitions: Partitions) -> pa.Schema:
    """Return the schema that all files of `table` share."""
    first: tuple[Path, pa.Schema] | None = None
    for path in (path for paths in partitions.values() for path in paths):
        schema = daily.schema(root, path)
        if first is None:
            first = path, schema
            _refuse_wrong_columns(path, table, schema)
        for name in dict.fromkeys([*first[1].names, *schema.names]):
            types = [kept.field(name).type if name in kept.names else "absent" for kept in (schema, first[1])]
            if types[0] != types[1]:
                raise ValueError(
                    f"{path}: column {name!r} is {types[0]} here and {types[1]} in {first[0]}; "
                    f"write all partitions of {table} with the same columns"
                )
    if first is None:
        raise ValueError(f"{root}: {table} has no file in any partition up to {max(partitions, default='that day')}")
    return first[1]


def _refuse_wrong_columns(path: Path, table: str, schema: pa.Schema) -> None:
    needed = dict.fromkeys(_IDS[table], _ID_TYPES) | ({"timestamp": (pa.int64(),)} if table == "interactions" else {})
    for name, types in needed.items():
        if name not in schema.names:
            raise ValueError(
                f"{path}: {table} has no column {name!r}, only {', '.join(schema.names)}"
                + uri.nearest(name, schema.names)
            )
        if schema.field(name).type not in types:
            unit = ", Unix seconds in UTC" if name == "timestamp" else ""
            raise ValueError(
                f"{path}: column {name!r} is {schema.field(name).type} where {table} needs "
                f"{' or '.join(map(str, types))}{unit}; cast it"
            )


def _read(path: Path, columns: list[str] | None = None) -> Iterator[pa.Table]:
    file, num_rows = daily.opened(path), 0
    try:
        for batch in file.iter_batches(_BATCH_ROWS, columns=columns):
            yield pa.Table.from_batches([batch])
            num_rows += batch.num_rows
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path}: damaged from row {num_rows} on ({error}); write the partition again") from None


def _numbered(batches: Iterator[pa.Table]) -> Iterator[tuple[str, pa.Table]]:
    """Yield the batches of a file, each with its rows' numbers in words."""
    start = 0
    for batch in batches:
        yield f"{start} to {start + batch.num_rows}", batch
        start += batch.num_rows


def _refuse_null(path: Path, rows: str, batch: pa.Table, names: list[str]) -> None:
    for name in names:
        if nulls := batch[name].null_count:
            raise ValueError(f"{path}: column {name!r} is null in {nulls} rows of {rows}; leave those rows out")


def _refuse_other_day(path: Path, rows: str, timestamps: pa.ChunkedArray, day: datetime.date) -> None:
    midnight = base.day_number(day) * base.DAY_SECONDS
    outside = timestamps.filter(
        pc.or_(pc.less(timestamps, midnight), pc.greater_equal(timestamps, midnight + base.DAY_SECONDS))
    )
    if len(outside):
        example = outside[0].as_py()
        fine = midnight <= example // 1000 < midnight + base.DAY_SECONDS
        raise ValueError(
            f"{path}: {len(outside)} timestamps of rows {rows} are not on {day} in UTC, such as {example}; "
            + (
                "these are milliseconds, seconds are needed"
                if fine
                else f"that day is {midnight} and the next 86,400 s"
            )
        )


def _distinct_ids(table: str, name: str, paths: list[Path], progress: _Progress) -> pa.ChunkedArray:
    """Return the ids of one day's users or items, having read every column once to see that none is damaged."""
    ids = pa.chunked_array([], pa.null())
    for path in paths:
        for rows, batch in _numbered(progress.of(_read(path))):
            _refuse_null(path, rows, batch, [name])
            ids = pa.chunked_array([*ids.chunks, *batch[name].chunks])
    twice = (
        [count["values"] for count in pc.value_counts(ids).to_pylist() if count["counts"] > 1] if _repeats(ids) else []
    )
    if twice:
        raise ValueError(
            f"{paths[0].parent}: {len(twice)} ids stand more than once in {table}, "
            f"such as {_some(sorted(twice))}; keep one row per {name} and day"
        )
    return ids


def _repeats(ids: pa.ChunkedArray) -> bool:
    return pc.count_distinct(ids).as_py() < len(ids)


def _refuse_unknown(root: Path, table: str, acting: base.FirstDays, known: base.FirstDays, name: str) -> None:
    first_act, first_known = acting.table(), known.table()
    known_day = first_known["day_min"].take(pc.index_in(first_act["id"], value_set=first_known["id"]))
    late = pc.fill_null(pc.greater(known_day, first_act["day_min"]), fill_value=True)
    if not pc.any(late).as_py():
        return
    wrong = first_act.append_column("known", known_day).filter(late).sort_by("id")
    examples = [
        f"{row['id']} acts on {base.day_of(row['day_min'])} but is "
        + ("in no partition" if row["known"] is None else f"first known on {base.day_of(row['known'])}")
        for row in wrong.slice(0, _NUM_EXAMPLES).to_pylist()
    ]
    raise ValueError(
        f"{root}: interactions name {wrong.num_rows} ids that {table} does not know by then "
        f"({name} {'; '.join(examples)}); add their rows to {table} on or before that day"
    )


def _some(values: list[int | str]) -> str:
    return ", ".join(map(str, values[:_NUM_EXAMPLES]))
