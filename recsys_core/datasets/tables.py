"""A log in tables that any reader opens: MaxCompute, object stores or local files, by day.

`interactions`, `users` and `items` name a table each. A row's day is text in the column `day_column`, which may be a
partition key: `2024-01-31` or `20240131`. If it is one in all three tables, each day is imported by itself, once, and
again when its partitions have changed; a run asks for no day after the one that it needs. Rows have the columns of the
daily layout, see `daily`. Users and items are held in memory while they are imported; interactions pass through it
block by block.
"""

import datetime
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, field_validator

from recsys_core import readers, uri
from recsys_core.artifacts import digest_of
from recsys_core.datasets import base
from recsys_core.progress import Event, Sink

_KEYS = {"interactions": ("user_id", "item_id", "timestamp"), "users": ("user_id",), "items": ("item_id",)}


class Config(base.Config):
    """`source` names the three tables; `columns` renames theirs, as in `{uid: user_id}`."""

    kind: Literal["tables"] = "tables"
    source: dict[str, str] = Field(description="paths of interactions, users and items")
    day_column: str = Field(default="ds", description="text, YYYY-MM-DD or YYYYMMDD")
    first_day: datetime.date | None = Field(
        default=None, description="rows of earlier days are left out; null: none are"
    )
    columns: dict[str, str] = Field(default_factory=dict, description="names in the tables to names in the log")

    @field_validator("source")
    @classmethod
    def _all_three(cls, source: dict[str, str]) -> dict[str, str]:
        if set(source) != set(_KEYS):
            raise ValueError(f"names {', '.join(sorted(source)) or 'nothing'}; name {', '.join(_KEYS)}, each a path")
        return source


def fingerprint(config: Config) -> str:
    """Return a digest that changes when one of the tables does; no rows are read."""
    return digest_of([readers.build(readers.infer(path)).fingerprint for _, path in sorted(config.source.items())])


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

        parts = readers.parts(path, config.day_column, wanted)
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
    log = base.LogWriter(root)
    _fill(config, config.source, log, sink)
    return log.close()


def write_day(config: Config, parts: dict[str, readers.Part], root: Path, sink: Sink) -> base.Counts | None:
    """Import a day's parts of the tables, as `days` tells them; return None if no interactions are among them.

    Raises:
        ValueError: see `write`.
    """
    log = base.LogWriter(root)
    _fill(config, {name: part.path for name, part in parts.items()}, log, sink)
    return log.close_any()


def _fill(config: Config, source: Mapping[str, uri.Source], log: base.LogWriter, sink: Sink) -> None:
    """Pass the tables to `log`."""
    opened = {name: _opened(config, name, path) for name, path in source.items()}
    total, done = sum(reader.num_rows for reader in opened.values()), 0
    for name in ("users", "items"):
        by_day: dict[datetime.date, list[pa.Table]] = {}
        for table in _blocks(config, opened[name]) if name in opened else ():
            for day, rows in _by_day(config, name, table):
                by_day.setdefault(day, []).append(rows)
            done += table.num_rows
            sink(Event(stage=base.STAGE, done=done, total=total))
        for day in sorted(by_day):
            log.write_rows(name, day, by_day.pop(day))
    for table in _blocks(config, opened["interactions"]) if "interactions" in opened else ():
        for day, rows in _by_day(config, "interactions", table):
            _require_times(config, day, rows)
            log.add_interactions(rows)
        done += table.num_rows
        sink(Event(stage=base.STAGE, done=done, total=total))
    if done != total:
        raise ValueError(
            f"{config.source}: {done} rows read of {total}; has a table changed meanwhile? import it again"
        )


def _opened(config: Config, name: str, path: uri.Source) -> readers.Reader:
    reader = readers.build(readers.infer(path))
    there: list[str] = [config.columns.get(column) or column for column in reader.schema.names]
    for column in (*_KEYS[name], config.day_column):
        if column not in there:
            raise ValueError(
                f"{config.source[name]}: no column {column!r} for {name}; it has {', '.join(there)}; name another in "
                "data.columns or data.day_column"
            )
    return reader


def _blocks(config: Config, reader: readers.Reader) -> Iterator[pa.Table]:
    for block in range(len(reader.block_rows)):
        table = reader.read(block, reader.schema.names)
        yield table.rename_columns([config.columns.get(column, column) for column in table.column_names])


def _by_day(config: Config, name: str, table: pa.Table) -> Iterator[tuple[datetime.date, pa.Table]]:
    days = table.column(config.day_column).cast(pa.string())
    own = table.drop_columns([config.day_column])
    num_rows = 0
    for text in sorted(days.unique().to_pylist(), key=str):
        day = _day(config, name, text)
        rows = own.filter(pc.equal(days, text))
        num_rows += rows.num_rows
        if config.first_day is None or day >= config.first_day:
            yield day, rows
    assert num_rows == table.num_rows, f"{num_rows} rows have a day, of {table.num_rows}"


def _day(config: Config, name: str, text: Any) -> datetime.date:
    try:
        return datetime.date.fromisoformat(text)
    except (TypeError, ValueError):
        raise ValueError(
            f"{config.source[name]}: {config.day_column} is {text!r} in some row; days are YYYY-MM-DD or YYYYMMDD"
        ) from None


def _require_times(config: Config, day: datetime.date, rows: pa.Table) -> None:
    seconds = rows.column("timestamp").cast(pa.int64()).to_numpy()
    other = seconds // base.DAY_SECONDS != base.day_number(day)
    if other.any():
        raise ValueError(
            f"{config.source['interactions']}: timestamp {seconds[int(np.argmax(other))]} stands in the rows of "
            f"{day}, of which it is not; timestamps are Unix seconds, and days are UTC"
        )
