"""The rows of a log as every stage reads them: ids are int64 or text, times are Unix seconds in UTC."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from recsys_core import columns, folders
from recsys_core.columns import RowError, Times
from recsys_core.datasets import daily
from recsys_core.progress import Event, Sink

IDS = {"interactions": ("user_id", "item_id"), "users": ("user_id",), "items": ("item_id",)}
TIME = "timestamp"
_BATCH_ROWS = 1 << 20


class Notes:
    """What had to be converted, to be reported once for each column."""

    def __init__(self) -> None:
        """Nothing was."""
        # By table: its units, each with the first file.
        self._units: dict[str, dict[str, str]] = {}
        self._cut: dict[str, int] = {}
        self._ids: dict[tuple[str, str], pa.DataType] = {}

    def times(self, place: str, table: str, found: Times) -> None:
        """Take note of times.

        Raises:
            ValueError: they are numbers of another unit than those before; types with their own unit may vary.
        """
        if found.seconds.null_count == len(found.seconds):
            return
        units = self._units.setdefault(table, {})
        other = next((unit for unit in units if unit in columns.UNITS and unit != found.unit), None)
        if other is not None and found.unit in columns.UNITS:
            raise ValueError(f"is in {found.unit}, and in {units[other]} in {other}; write all files alike")
        units.setdefault(found.unit, place)
        self._cut[table] = self._cut.get(table, 0) + found.num_cut

    def ids(self, table: str, name: str, kind: pa.DataType) -> None:
        """Take note of the type of ids."""
        if columns.is_inexact(kind):
            self._ids[table, name] = kind

    def emit(self, sink: Sink, stage: str) -> None:
        """Send a message for each column that was converted."""
        for (table, name), kind in self._ids.items():
            sink(Event(stage=stage, message=f"warning: {table}: {name} is {kind}; its whole numbers are read as ids"))
        for table, units in self._units.items():
            cut = f"; fractions of a second are left out, in {self._cut[table]:,} rows" if self._cut[table] else ""
            if list(units) != ["seconds"] or cut:
                message = f"warning: {table}: {TIME} is {' and '.join(units)}, read as Unix seconds in UTC{cut}"
                sink(Event(stage=stage, message=message))


def read(
    root: Path,
    table: str,
    path: Path,
    wanted: Sequence[str] | None = None,
    *,
    place: str = "",
    notes: Notes | None = None,
) -> Iterator[pa.Table]:
    """Yield the rows of one file of `table`, all columns or those that are wanted; one batch at least.

    `place` is what the file is called in messages.

    Raises:
        ValueError: the file is damaged, or an id or a time is none; names its row.
    """
    place, start = place or str(path), 0
    file, names = daily.opened(path), list(daily.schema(root, path).names if wanted is None else wanted)
    own = [name for name in names if name in file.schema_arrow.names]
    try:
        for batch in file.iter_batches(_BATCH_ROWS, columns=own):
            rows = daily.completed(root, path, pa.Table.from_batches([batch]), names)
            yield converted(rows, table, place, start, notes)
            start += rows.num_rows
    except (pa.ArrowException, OSError) as error:
        raise ValueError(
            f"{place}: damaged from row {start} on ({folders.reason(error)}); write the partition again"
        ) from None
    if not start:
        empty = file.schema_arrow.empty_table().select(own)
        yield converted(daily.completed(root, path, empty, names), table, place, 0, notes)


def converted(rows: pa.Table, table: str, place: str, first_row: int, notes: Notes | None = None) -> pa.Table:
    """Return the rows of `table` with ids and times as all stages take them, and every column in its plain layout.

    Raises:
        ValueError: an id or a time is none; names place, column and row, of which the first has number `first_row`.
    """
    for number, name in enumerate(rows.column_names):
        column = rows.column(number)
        if name in IDS[table]:
            made = of_column(columns.ids, column, name, place, first_row)
            if notes is not None:
                notes.ids(table, name, column.type)
        elif name == TIME and table == "interactions":
            made = of_column(lambda chunk: _seconds(chunk, table, place, notes), column, name, place, first_row)
        elif columns.plain_type(column.type) != column.type:
            made = columns.by_chunk(columns.plain, column)
        else:
            made = column
        if notes is not None:
            # Later passes over the rows need not look again.
            of_column(columns.require_text, made, name, place, first_row)
        rows = rows if made is column else rows.set_column(number, name, made)
    return rows


def of_column(
    convert: Callable[[pa.Array], pa.Array], column: pa.ChunkedArray, name: str, place: str, first_row: int
) -> pa.ChunkedArray:
    """Convert a column.

    Raises:
        ValueError: a value is refused; names place, column and row.
    """
    try:
        return columns.by_chunk(convert, column)
    except RowError as error:
        raise ValueError(f"{place}: column {name!r}, row {first_row + error.row}: {error.reason}") from None
    except ValueError as error:
        raise ValueError(f"{place}: column {name!r}: {error}") from None


def canonical(table: str, name: str, kind: pa.DataType) -> pa.DataType:
    """Return the type that `converted` gives to a column of `kind`."""
    if name == TIME and table == "interactions":
        return pa.int64()
    kind = columns.plain_type(kind)
    if name in IDS[table]:
        return pa.string() if pa.types.is_string(kind) or columns.is_bytes(kind) else pa.int64()
    return kind


def _seconds(chunk: pa.Array, table: str, place: str, notes: Notes | None) -> Any:
    found = columns.seconds(chunk)
    if notes is not None:
        notes.times(place, table, found)
    return found.seconds
