"""Columns that features take as ids, where their type does not promise that they are: looked at before all else."""

import datetime
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from recsys_core import columns
from recsys_core.artifacts import Dataset
from recsys_core.columns import RowError
from recsys_core.datasets import _rows, daily
from recsys_core.features.columns.flat import bags
from recsys_core.progress import Event, Sink


def is_doubtful(kind: pa.DataType) -> bool:
    """Return whether values of a type may be ids, and may be none."""
    kind = _innermost(kind)
    return columns.is_inexact(kind) or columns.is_bytes(kind) or pa.types.is_uint64(kind)


def message(name: str, kind: pa.DataType) -> str | None:
    """Return what is to be said of a column of ids; None: nothing."""
    if not columns.is_inexact(_innermost(kind)):
        return None
    return f"warning: {name} is {kind}; its whole numbers are read as ids"


def require(column: pa.ChunkedArray, name: str, place: str, first_row: int) -> None:
    """Refuse values, or entries of lists, that are no ids.

    Raises:
        ValueError: names place, column and row.
    """
    values, lengths = bags(column.combine_chunks())
    try:
        columns.ids(values)
    except RowError as error:
        row = first_row + int(np.searchsorted(np.cumsum(lengths), error.row, side="right"))
        raise ValueError(f"{place}: column {name!r}, row {row}: {error.reason}") from None


def check(dataset: Dataset, fields: Sequence[str], until: datetime.date, stage: str, sink: Sink) -> None:
    """Look at fields of users and items that are ids, in all partitions up to `until`, and say what is read as ids.

    Raises:
        ValueError: an id is none; names the file and the row.
    """
    text: set[str] = set()
    for table, name, kind, place, first_row, column in _doubtful(dataset, fields, until):
        require(column, name, place, first_row)
        said = message(f"{table}: {name}", kind)
        if said is not None and said not in text:
            text.add(said)
            sink(Event(stage=stage, message=said))


def _doubtful(
    dataset: Dataset, fields: Sequence[str], until: datetime.date
) -> Iterator[tuple[str, str, pa.DataType, str, int, pa.ChunkedArray]]:
    """Yield batches of such columns: table, name, type in the file, file, number of the first row, values."""
    for table in ("users", "items"):
        # Of the tables' own ids ingest has seen to it.
        named = [name for name in fields if name in dataset.columns[table] and name not in _rows.IDS[table]]
        for day, paths in daily.partitions(dataset.root, table).items() if named else ():
            for path in paths if day <= until else ():
                schema, start = daily.schema(dataset.root, path), 0
                wanted = [name for name in named if is_doubtful(schema.field(name).type)]
                for rows in _rows.read(dataset.root, table, path, wanted) if wanted else ():
                    for name in wanted:
                        yield table, name, schema.field(name).type, str(path), start, rows.column(name)
                    start += rows.num_rows


def _innermost(kind: pa.DataType) -> pa.DataType:
    kind = columns.plain_type(kind)
    return _innermost(kind.value_type) if columns.is_list(kind) else kind
