"""Profile a table: what its columns hold, found in one pass and in bounded memory.

Memory: one block of the table as it is read, the next one, and for each column at most 65,536 distinct values or the
sketches that take over from there (a few megabytes). Blocks of over eight million values are read some columns at a
time.
"""

import os
import re
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath

import pyarrow as pa

from recsys_core import readers, uri
from recsys_core.artifacts import Frozen
from recsys_core.profile import tags
from recsys_core.profile.columns import Column
from recsys_core.profile.records import ColumnProfile, TableProfile
from recsys_core.profile.source import Table
from recsys_core.progress import Event, Sink

__all__ = ["ColumnProfile", "Config", "TableProfile", "columns_of", "run", "table_name"]

STAGE = "profile"


class Config(Frozen):
    """What can be set of a profile: `csv`, how files of CSV are written."""

    csv: readers.CsvOptions = readers.CsvOptions()


def run(
    path: str,
    sink: Sink,
    *,
    columns: Sequence[str] | None = None,
    sample_rows: int | None = None,
    num_top: int = 10,
    seed: int = 0,
    csv: readers.CsvOptions | None = None,
) -> TableProfile:
    """Return the profile of the table at `path`; `sample_rows` reads about so many rows, `columns` only these.

    `csv` is how its files of CSV are written.

    Raises:
        ValueError: no such file or column, a file that cannot be read, or files of different columns.
    """
    table = Table(path, csv or readers.CsvOptions())
    names = _chosen(table.schema, columns)
    rows = table.num_rows if sample_rows is None else min(sample_rows, table.num_rows)
    started = time.monotonic()
    tables = _with_progress(table.read(names, sample_rows, seed), rows * len(names), len(names), sink)
    found = columns_of(table.schema, names, tables)
    seconds = time.monotonic() - started
    sink(Event(stage=STAGE, done=rows, total=rows, message=f"done in {seconds:.1f} s"))
    profiles = {name: column.profile(num_top) for name, column in found.items()}
    suggested = {name: tags.suggest(name, profile, table_name(path)) for name, profile in profiles.items()}
    return TableProfile(
        source=path,
        rows=table.num_rows,
        sampled_rows=rows,
        bytes=table.num_bytes,
        files=len(table.files),
        partitions=table.partitions(),
        columns={
            name: profile.model_copy(update={"tags": suggested[name].tags, "reason": suggested[name].reason})
            for name, profile in profiles.items()
        },
    )


def columns_of(schema: pa.Schema, names: Sequence[str], tables: Iterator[pa.Table]) -> dict[str, Column]:
    """Return the statistics of the columns `names` over `tables`, each of which has some of them.

    The next table is read while this one is looked at, its columns side by side.
    """
    found = {name: Column(schema.field(name).type) for name in names}
    with ThreadPoolExecutor(1) as reading, ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as counting:
        waiting = reading.submit(next, tables, None)
        while (table := waiting.result()) is not None:
            waiting = reading.submit(next, tables, None)
            work = [counting.submit(found[name].add, table[name]) for name in table.column_names]
            for done in work:
                done.result()
    return found


def table_name(path: str) -> str:
    """Return what to call the table at `path`: the last folder that is no partition, or the file's name."""
    parts = [part for part in PurePosixPath(path.partition(",")[0]).parts if not re.search(r"[=*?\[]", part)]
    last = parts[-1] if parts else "table"
    return re.sub(r"[^A-Za-z0-9_]+", "_", last.partition(".")[0]).strip("_") or "table"


def _chosen(schema: pa.Schema, columns: Sequence[str] | None) -> list[str]:
    twice = {name for name in schema.names if schema.names.count(name) > 1}
    if twice:
        raise ValueError(f"columns {', '.join(sorted(twice))} stand in the table more than once; rename them")
    for name in columns or ():
        if name not in schema.names:
            known = ", ".join(schema.names)
            raise ValueError(f"no column {name!r}, only {known}{uri.nearest(name, schema.names)}")
    return list(dict.fromkeys(columns)) if columns else schema.names


def _with_progress(tables: Iterator[pa.Table], num_values: int, num_columns: int, sink: Sink) -> Iterator[pa.Table]:
    """Pass the tables on, and emit the progress: rows, of which a table may hold only some columns."""
    started, done = time.monotonic(), 0
    for table in tables:
        yield table
        done += table.num_rows * table.num_columns
        speed = done / num_columns / max(time.monotonic() - started, 1e-6)
        left = (num_values - done) / num_columns / max(speed, 1e-6)
        sink(
            Event(
                stage=STAGE,
                done=done // num_columns,
                total=num_values // num_columns,
                metrics={"rows_per_second": speed},
                message=f"{left:.0f} s left",
            )
        )
