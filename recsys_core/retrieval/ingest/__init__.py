"""Ingest of ready-made examples: bring what a run needs of them to one place, and check it before anything is trained.

Training rows stay where they are, or are copied once a day; the evaluation rows and the item table are written into the
artifact, as preprocess reads them. They are held in memory for that. See `recsys_core.ingest` for a log.
"""

import datetime
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from recsys_core import artifacts, columns, holdout, ingest, readers, uri
from recsys_core.artifacts import ExampleLog, Learned, NextDay, digest_of
from recsys_core.datasets import _by_day, _copies, base, examples
from recsys_core.datasets._copies import Copies, Day
from recsys_core.progress import Event, Sink
from recsys_core.retrieval.ingest import items as item_table
from recsys_core.retrieval.ingest.tables import Table, opened, renamed

TRUTH, SEEN, ITEM = "gt_items", "seen_items", "item_id"


class Request(artifacts.Request):
    """What a run of `day` needs: the training rows from `first_day` on; `fingerprint` is that of all, see `needed`."""

    UNKEYED: ClassVar[frozenset[str]] = artifacts.Request.UNKEYED | {"import_root"}

    data: examples.Config
    day: datetime.date
    first_day: datetime.date
    import_root: Path
    fingerprint: str


class Needed(NamedTuple):
    """The first day of training rows that a run needs to have, and what shows that something of it has changed."""

    first_day: datetime.date
    fingerprint: str


class _Parts(NamedTuple):
    """Where the rows of a run are: training rows by day, and the other tables by name."""

    train: dict[datetime.date, readers.Part]
    others: dict[str, readers.Part]

    @property
    def fingerprint(self) -> str:
        others = {name: part.fingerprint for name, part in self.others.items()}
        return digest_of([_by_day.fingerprint(self.train), others])


def needed(
    data: examples.Config,
    day: datetime.date,
    *,
    base_learned: Learned | None,
    window_days: int | None,
    reference_days: int = 0,
) -> Needed:
    """Return what a run of `day` needs; `reference_days` are compared with the ones that it learns from.

    No content is read.

    Raises:
        ValueError: a table cannot be reached, or does not have the day.
    """
    first = base.days_before(holdout.first_day(day, base_learned, window_days), reference_days)
    return Needed(first, _parts(data, first, day).fingerprint)


def last_day(data: examples.Config) -> datetime.date:
    """Return the last day that can be run: every table that is by day has what a run of it needs.

    Raises:
        ValueError: a table cannot be reached, or there is no such day.
    """
    if data.day is not None:
        return data.day
    least, most = datetime.date.min, datetime.date.max
    there = {table: set(examples.days(data, table, least, most)) for table in data.source if data.is_by_day(table)}
    able = [day for day in there["train"] if all(_day_of(table, day) in have for table, have in there.items())]
    if not able:
        tables = " and ".join(there)
        raise ValueError(
            f"{data.source['train']}: no day of it can be run; one needs a partition of {tables} each, and the "
            "evaluation's is that of the day after"
        )
    return max(able)


def run(request: Request, sink: Sink) -> ExampleLog:
    """Copy what is not read in place, and check the columns, ids and lists of every table.

    Raises:
        ValueError: a day is missing or has no rows, a file cannot be read, a column is missing, or an id is none or
            twice in the item table; nothing is written then.
    """
    data, day = request.data, request.day
    parts = _checked_parts(request)
    found = _look(request, parts, sink)
    if not found[day].num_rows:
        raise ValueError(f"{data.source['train']}: {day} (the day itself) has no rows; write its partition again")
    items, tables = item_table.read(data, parts.others.get("items"), parts.others.get("negatives"))
    evaluation = opened(data, "evaluation", parts.others["evaluation"].path)
    rows = _evaluation(data, evaluation, items.schema.field(ITEM).type)
    _require_read(data, found, [*tables, evaluation], parts)
    with artifacts.pending(request.output) as aside:
        base.write_parquet(aside.path / "items" / "part-00000.parquet", [items])
        base.write_parquet(aside.path / "evaluation" / "part-00000.parquet", [rows])
        days = _copies.record(found, aside.path)
        return aside.commit(
            ExampleLog,
            request,
            num_rows=sum(one.num_rows for one in days),
            source=data.source["train"],
            day=day,
            days=days,
            columns=found[day].columns,
            names=data.columns,
            evaluation_source=data.source["evaluation"],
            num_items=items.num_rows,
            num_evaluation_rows=rows.num_rows,
        )


def look(request: Request, sink: Sink) -> None:
    """Copy and check the days of training rows, but those that have been and are still there; `run` does it too.

    A log refers to copies, which may have been deleted since it was made: before one of an earlier run is taken again,
    this brings them back.

    Raises:
        ValueError: see `run`; or something has changed since the run began.
    """
    _look(request, _checked_parts(request), sink)


def _day_of(table: str, day: datetime.date) -> datetime.date | None:
    """Return the day whose partition of a table a run of `day` needs; None: there is none."""
    if table != "evaluation":
        return day
    return None if day == datetime.date.max else base.day_after(day)


def _parts(data: examples.Config, first: datetime.date, day: datetime.date) -> _Parts:
    """Find what a run of `day` needs.

    Raises:
        ValueError: see `needed`.
    """
    train = examples.days(data, "train", first, day) if data.is_by_day("train") else {}
    if data.day is not None:
        train = {data.day: examples.whole(data, "train")}
    if day not in train:
        raise _missing(data, "train", day, "the day itself")
    others: dict[str, readers.Part] = {}
    for table in data.source:
        if table != "train" and data.is_by_day(table):
            at = holdout.last_day(day, NextDay()) if table == "evaluation" else day
            role = f"on which the run of {day} is measured" if table == "evaluation" else f"the {table} of the run"
            if at not in (there := examples.days(data, table, at, at)):
                raise _missing(data, table, at, role)
            others[table] = there[at]
        elif table != "train":
            others[table] = examples.whole(data, table)
    return _Parts(train, others)


def _missing(data: examples.Config, table: str, day: datetime.date, role: str) -> ValueError:
    there: Mapping[datetime.date, readers.Part] = {}
    if data.is_by_day(table):
        there = examples.days(data, table, datetime.date.min, datetime.date.max)
    span = f"the {len(there)} days from {min(there)} to {max(there)}" if there else "no day at all"
    if not data.is_by_day(table):
        span = f"rows of {data.day} alone (data.day)"
    return ValueError(f"{data.source[table]}: has no partition of {day} ({role}), but {span}; name another day")


def _checked_parts(request: Request) -> _Parts:
    parts = _parts(request.data, request.first_day, request.day)
    if parts.fingerprint != request.fingerprint:
        raise ValueError(
            f"{request.data.source['train']}: a table that is needed has changed since this run began; run it again"
        )
    return parts


def _look(request: Request, parts: _Parts, sink: Sink) -> dict[datetime.date, Day]:
    data = request.data
    code = [Path(str(module.__file__)) for module in (examples, _by_day, _copies)]
    version = digest_of([data.source["train"], data.day, data.csv, [artifacts.digest_of_file(path) for path in code]])
    home, found = (request.import_root / f"{data.kind}-{version}").absolute(), dict[datetime.date, Day]()
    copies = Copies(home, lambda _, path: readers.build(readers.infer(path, data.csv)), sink)
    num_rows = functools.partial(_num_rows, data)
    with ingest.locked(home.parent):
        for number, (day, part) in enumerate(parts.train.items()):
            sink(Event(stage=base.STAGE, done=number, total=len(parts.train), unit="days", message=f"checking {day}"))
            found[day] = copies.look(digest_of(data.columns), day, part, num_rows)
    return found


def _num_rows(data: examples.Config, reader: readers.Reader) -> int:
    """Check the columns of a day's training rows, each of which is a positive; their items preprocess looks at."""
    place = reader.place(0).path if len(reader.block_rows) else data.source["train"]
    names = renamed(data, reader.schema.names)
    columns.refuse_twice(place, names)
    Table(place, reader, names).require(ITEM)
    return reader.num_rows


def _evaluation(data: examples.Config, table: Table, kind: pa.DataType) -> pa.Table:
    """Return the evaluation rows, ids and lists of items made alike, their other columns as they are."""
    rows = table.rows()
    if not rows.num_rows:
        raise ValueError(f"{table.path}: no rows, on which the run is to be measured; write it again")
    made = pa.table({"user_id": table.ids("user_id", rows)})
    given = TRUTH if TRUTH in table.names else ITEM
    if given not in table.names:
        raise ValueError(
            f"{table.path}: neither a column {TRUTH!r} nor {ITEM!r} (there are: {', '.join(table.names)}); name what "
            "is relevant in data.columns"
        )
    truth = table.lists(given, rows, data.separator, kind)
    lists = [truth]
    for name in rows.column_names:
        if name not in ("user_id", TRUTH, SEEN, *([ITEM] if given == ITEM else [])):
            made = made.append_column(name, rows[name])
    made = made.append_column(TRUTH, truth)
    if SEEN in table.names:
        lists.append(table.lists(SEEN, rows, data.separator, kind))
        made = made.append_column(SEEN, lists[-1])
    texts = [name for name in (given, SEEN) if name in table.names and name != ITEM]
    is_text = [pa.types.is_string(columns.plain_type(rows.schema.field(name).type)) for name in texts]
    if data.separator is not None and not any(is_text):
        raise ValueError(f"data.separator: {' and '.join(texts) or given} of {table.path} are no texts; leave it out")
    if pc.sum(pc.list_value_length(truth)).as_py() == 0:
        raise ValueError(f"{table.path}: no row has a relevant item, so that nothing can be measured")
    return made


def _require_read(
    data: examples.Config, found: Mapping[datetime.date, Day], tables: list[Table], parts: _Parts
) -> None:
    """Refuse names of columns, and options of CSV, that nothing reads."""
    own = {name for day in found.values() for name in day.columns}
    own |= {name for table in tables for name in table.reader.schema.names}
    for name in data.columns:
        if name not in own:
            raise ValueError(f"data.columns: no table has a column {name!r}{uri.nearest(name, sorted(own))}; remove it")
    is_csv = any(table.is_csv for table in tables) or any(
        not (isinstance(part.path, str) and part.path.startswith("odps://")) and uri.format_of(part.path) == "csv"
        for day, part in parts.train.items()
        if found[day].num_rows
    )
    if data.csv != readers.CsvOptions() and not is_csv:
        raise ValueError("data.csv: no table is CSV, so nothing reads this; leave it out")
    if unknown := [name for name in data.csv.types if name not in own]:
        raise ValueError(f"data.csv.types: there is no column {unknown[0]!r}{uri.nearest(unknown[0], sorted(own))}")
