"""A log in tables that any reader opens: MaxCompute, object stores or local files, by day.

`interactions`, `users` and `items` name a table each. A row's day is in the column `day_column`, which may be a
partition key: `2024-01-31`, `20240131`, or a time, which may be that of the interaction. If it is a partition key of
all three tables, each day is imported by itself, once, and again when its partitions have changed; a run asks for no
day after the one that it needs. Rows have the columns of the daily layout, see `daily`. Users and items are held in
memory while they are imported; interactions pass through it block by block.
"""

import contextlib
import datetime
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, field_validator

from recsys_core import columns, readers, uri
from recsys_core.artifacts import digest_of
from recsys_core.columns import RowError, by_chunk, plain, refuse_twice
from recsys_core.datasets import _rows, base
from recsys_core.progress import Event, Sink

_DAY = re.compile(r"\d{4}-\d{2}-\d{2}|\d{8}")
_DAYS = "write days as YYYY-MM-DD or YYYYMMDD, or times in ISO 8601 or Unix seconds"
_KEYS = {"interactions": ("user_id", "item_id", "timestamp"), "users": ("user_id",), "items": ("item_id",)}


class Config(base.Config):
    """`source` names the three tables; `columns` renames theirs, as in `{uid: user_id}`."""

    kind: Literal["tables"] = "tables"
    source: dict[str, str] = Field(description="paths of interactions, users and items")
    day_column: str | dict[str, str] = Field(
        default="ds",
        description="YYYY-MM-DD or YYYYMMDD, or a time, of which it is the day in UTC; one name, or one for each table",
    )
    first_day: datetime.date | None = Field(
        default=None, description="rows of earlier days are left out; null: none are"
    )
    columns: dict[str, str] = Field(default_factory=dict, description="names in the tables to names in the log")
    csv: readers.CsvOptions = Field(default=readers.CsvOptions(), description="how those of CSV are written")

    @field_validator("source")
    @classmethod
    def _all_three(cls, source: dict[str, str]) -> dict[str, str]:
        if set(source) != set(_KEYS):
            raise ValueError(f"names {', '.join(sorted(source)) or 'nothing'}; name {', '.join(_KEYS)}, each a path")
        return source

    @field_validator("day_column")
    @classmethod
    def _one_each(cls, day_column: str | dict[str, str]) -> str | dict[str, str]:
        if isinstance(day_column, dict) and set(day_column) != set(_KEYS):
            raise ValueError(
                f"names {', '.join(sorted(day_column)) or 'nothing'}; name a column for {', '.join(_KEYS)}"
            )
        return day_column

    def day_key(self, name: str) -> str:
        """Return what the column of days of a table is called in the table."""
        return self.day_column if isinstance(self.day_column, str) else self.day_column[name]

    def day_of(self, name: str) -> str:
        """Return what it is called once columns are renamed."""
        return self.columns.get(self.day_key(name), self.day_key(name))


def fingerprint(config: Config) -> str:
    """Return a digest that changes when one of the tables does; no rows are read."""
    return digest_of([readers.fingerprint(path) for _, path in sorted(config.source.items())])


def days(
    config: Config, first: datetime.date | None, last: datetime.date | None
) -> dict[datetime.date, dict[str, readers.Part]] | None:
    """Return each day's part of each table that has one, from `first` to `last`; None: tables are not parted by day.

    Raises:
        ValueError: a table that cannot be reached, or a partition that is no day's.
    """
    least = max((day for day in (first, config.first_day) if day is not None), default=None)
    found: dict[datetime.date, dict[str, readers.Part]] = {}
    for name, path in config.source.items():

        def wanted(text: str, name: str = name) -> bool:
            day = _day(config, name, text)
            return (last is None or day <= last) and (least is None or day >= least)

        parts = readers.parts(path, config.day_key(name), wanted)
        if parts is None:
            return None
        for text, part in parts.items():
            if name in found.setdefault(_day(config, name, text), {}):
                raise ValueError(f"{path}: two partitions are of the day of {text!r}; remove one of them")
            found[_day(config, name, text)][name] = part
    return found


def write(config: Config, root: Path, sink: Sink) -> base.Counts:
    """Import the three tables.

    Raises:
        ValueError: a table that cannot be opened or lacks a column, a day that is none, an interaction that is not of
            its partition's day.
    """
    log = base.LogWriter(root, keeps_order=True)
    _fill(config, config.source, log, sink)
    if (counts := log.close_any()) is None:
        raise ValueError(f"{config.source['interactions']}: holds no interactions that are imported; is it complete?")
    return counts


def write_day(config: Config, parts: dict[str, readers.Part], root: Path, sink: Sink) -> base.Counts | None:
    """Import a day's parts of the tables, as `days` gives them; return None if no interactions are among them.

    Raises:
        ValueError: see `write`.
    """
    log = base.LogWriter(root, keeps_order=True)
    _fill(config, {name: part.path for name, part in parts.items()}, log, sink)
    return log.close_any()


def _fill(config: Config, source: Mapping[str, uri.Source], log: base.LogWriter, sink: Sink) -> None:
    """Pass the tables to `log`."""
    opened = _opened(config, source)
    total, done = sum(reader.num_rows for reader in opened.values()), 0
    notes = _rows.Notes()
    for name in ("users", "items"):
        by_day: dict[datetime.date, list[pa.Table]] = {}
        for place, first_row, table in _blocks(config, opened[name]) if name in opened else ():
            converted = _rows.converted(table, name, place, first_row, notes)
            for day, rows in _by_day(config, name, converted, place, first_row):
                by_day.setdefault(day, []).append(rows)
            done += table.num_rows
            sink(Event(stage=base.STAGE, done=done, total=total))
        for day in sorted(by_day):
            log.write_rows(name, day, by_day.pop(day))
    for place, first_row, table in _blocks(config, opened["interactions"]) if "interactions" in opened else ():
        converted = _rows.converted(table, "interactions", place, first_row, notes)
        _refuse_null_times(converted, place, first_row)
        for day, rows in _by_day(config, "interactions", converted, place, first_row):
            _require_times(place, day, rows)
            log.add_interactions(rows)
        done += table.num_rows
        sink(Event(stage=base.STAGE, done=done, total=total))
    notes.emit(sink, base.STAGE)
    if done != total:
        raise ValueError(
            f"{config.source}: {done} rows read of {total}; has a table changed meanwhile? import it again"
        )


def _opened(config: Config, source: Mapping[str, uri.Source]) -> dict[str, readers.Reader]:
    ids = {*_KEYS["users"], *_KEYS["items"]}

    def key(column: str) -> str | None:
        renamed = config.columns.get(column, column)
        return renamed if renamed in ids else None

    opened, _ = readers.alike(source, config.csv, "data.csv", key)
    for name, reader in opened.items():
        there: list[str] = [config.columns.get(column) or column for column in reader.schema.names]
        refuse_twice(f"{config.source[name]}, renamed by data.columns", there)
        for column in (*_KEYS[name], config.day_of(name)):
            if column not in there:
                raise ValueError(
                    f"{config.source[name]}: no column {column!r} for {name}; it has {', '.join(there)}; name another "
                    "in data.columns or data.day_column"
                )
    return opened


def _blocks(config: Config, reader: readers.Reader) -> Iterator[tuple[str, int, pa.Table]]:
    """Yield each block with the file that it is of, and the number of its first row there."""
    for block in range(len(reader.block_rows)):
        table, place = reader.read(block, reader.schema.names), reader.place(block)
        renamed = table.rename_columns([config.columns.get(name, name) for name in table.column_names])
        yield place.path, place.first_row, renamed


def _by_day(
    config: Config, name: str, table: pa.Table, place: str, first_row: int
) -> Iterator[tuple[datetime.date, pa.Table]]:
    column = config.day_of(name)
    days, is_day = _days_of(table.column(column), column, place, first_row)
    # A time that is the day as well stays a column of its own.
    own = table.drop_columns([column]) if is_day and column not in _KEYS[name] else table
    num_rows = 0
    for number in np.unique(days).tolist():
        rows = own.filter(pa.array(days == number))
        num_rows += rows.num_rows
        day = base.day_of(number)
        if config.first_day is None or day >= config.first_day:
            yield day, rows
    assert num_rows == table.num_rows, f"{num_rows} rows have a day, of {table.num_rows}"


def _days_of(column: pa.ChunkedArray, name: str, place: str, first_row: int) -> tuple[np.ndarray, bool]:
    """Return int64 [N], the day number of each row, and whether the column has days, and not times of which they are.

    Raises:
        ValueError: a row has none; names it.
    """
    values = by_chunk(plain, column)
    if columns.is_bytes(values.type):
        values = _rows.of_column(columns.text, values, name, place, first_row)
    if name != _rows.TIME and columns.is_inexact(values.type):
        # As pandas writes a column of whole numbers that had a null once.
        with contextlib.suppress(RowError):
            values = by_chunk(columns.ids, values)
    if values.null_count:
        row = first_row + pc.index(values.is_null(), pa.scalar(True)).as_py()  # noqa: FBT003
        raise ValueError(f"{place}: column {name!r}, row {row}: there is no day; {_DAYS}")
    kind = values.type
    if name != _rows.TIME and (pa.types.is_integer(kind) or pa.types.is_string(kind)):
        texts = values.cast(pa.string())
        distinct = texts.unique().to_pylist()
        if not distinct or any(_DAY.fullmatch(text) for text in distinct):
            numbers = {text: _number(text) for text in distinct}
            wrong = next((text for text, number in numbers.items() if number is None), None)
            if wrong is not None:
                row = first_row + pc.index(texts, pa.scalar(wrong)).as_py()
                raise ValueError(f"{place}: column {name!r}, row {row}: {wrong!r} is no day; {_DAYS}")
            found = texts.combine_chunks().dictionary_encode()
            known = np.array([numbers[text] for text in found.dictionary.to_pylist()], dtype=np.int64)
            return known[found.indices.to_numpy()], True
    try:
        seconds = by_chunk(lambda chunk: columns.seconds(chunk).seconds, values)
    except RowError as error:
        is_text = pa.types.is_string(kind)
        said = f"{columns.shown(values[error.row].as_py())} is no day; {_DAYS}" if is_text else error.reason
        raise ValueError(f"{place}: column {name!r}, row {first_row + error.row}: {said}") from None
    except ValueError:
        raise ValueError(f"{place}: column {name!r} is {kind}, which holds no days; {_DAYS}") from None
    return seconds.to_numpy() // base.DAY_SECONDS, pa.types.is_date(kind)


def _number(text: str) -> int | None:
    try:
        return base.day_number(datetime.date.fromisoformat(text)) if _DAY.fullmatch(text) else None
    except ValueError:
        return None


def _day(config: Config, name: str, text: str) -> datetime.date:
    """Return the day that a partition's value names."""
    number = _number(text)
    if number is None:
        raise ValueError(
            f"{config.source[name]}: {config.day_of(name)} is {text!r} in some row; days are YYYY-MM-DD or YYYYMMDD"
        )
    return base.day_of(number)


def _refuse_null_times(rows: pa.Table, place: str, first_row: int) -> None:
    missing = rows.column(_rows.TIME).is_null()
    if pc.any(missing).as_py():
        row = first_row + pc.index(missing, pa.scalar(True)).as_py()  # noqa: FBT003
        raise ValueError(f"{place}: column {_rows.TIME!r}, row {row}: there is no time; leave such rows out")


def _require_times(place: str, day: datetime.date, rows: pa.Table) -> None:
    seconds = rows.column(_rows.TIME).to_numpy()
    other = seconds // base.DAY_SECONDS != base.day_number(day)
    if other.any():
        raise ValueError(
            f"{place}: timestamp {seconds[int(np.argmax(other))]} stands in the rows of {day}, of which it is not; "
            "days are UTC, as are times without a zone"
        )
