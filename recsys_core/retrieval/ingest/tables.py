"""A table of ready-made examples as it is read: columns by the names that they have here, errors with file and row."""

from typing import NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys_core import columns, readers, uri
from recsys_core.columns import RowError, refuse_twice
from recsys_core.datasets import examples


class Table(NamedTuple):
    """An open table. `names` are those of its columns here, in the order of the table's own."""

    path: str
    reader: readers.Reader
    names: list[str]

    @property
    def is_csv(self) -> bool:
        """Whether its files are CSV."""
        return isinstance(self.reader, readers.csv.Reader)

    def require(self, name: str) -> Self:
        """Return the table, which has a column `name`.

        Raises:
            ValueError: it has not.
        """
        if name not in self.names:
            near = uri.nearest(name, self.names)
            raise ValueError(
                f"{self.path}: no column {name!r} (there are: {', '.join(self.names)}){near}; name it in data.columns"
            )
        return self

    def column(self, name: str, rows: pa.Table) -> pa.ChunkedArray:
        """Return a column of `rows`; see `require`."""
        self.require(name)
        return rows[name]

    def rows(self) -> pa.Table:
        """Read all rows.

        Raises:
            ValueError: the table cannot be read, or has other rows than when it was opened.
        """
        rows = readers.read_all(self.reader)
        if rows.num_rows != self.reader.num_rows:
            raise ValueError(f"{self.path}: {rows.num_rows} rows read of {self.reader.num_rows}; has it changed?")
        return rows.rename_columns(self.names)

    def ids(self, name: str, rows: pa.Table) -> pa.Array:
        """Return a column of ids, int64 or string, none of them null.

        Raises:
            ValueError: there is none, its type holds no ids, or a value is none; names file and row.
        """
        found = self.column(name, rows)
        try:
            ids = columns.by_chunk(columns.ids, found).combine_chunks()
        except RowError as error:
            raise self.error(error.row, name, error.reason) from None
        except ValueError as error:
            raise ValueError(f"{self.path}: column {name!r}: {error}") from None
        if ids.null_count:
            row = int(np.argmax(ids.is_null().to_numpy(zero_copy_only=False)))
            raise self.error(row, name, "there is no id; drop the row")
        return ids

    def lists(self, name: str, rows: pa.Table, separator: str | None, kind: pa.DataType) -> pa.ListArray:
        """Return lists of ids of type `kind`, those of the item table, of a column of lists, texts or single ids.

        Raises:
            ValueError: a value is no id of this type, or a list has a null in it; names file and row.
        """
        values = columns.by_chunk(columns.plain, self.column(name, rows)).combine_chunks()
        if pa.types.is_string(values.type) and name != "item_id":
            if separator is None:
                raise ValueError(
                    f"{self.path}: column {name!r} is text; say in data.separator what stands between its ids"
                )
            empty = pc.equal(values, "")
            values = pc.split_pattern(pc.if_else(empty, pa.scalar(None, pa.string()), values), separator)
        if columns.is_list(values.type):
            lengths = pc.fill_null(pc.list_value_length(values), 0).to_numpy(zero_copy_only=False)
            flat = pc.list_flatten(values)
        else:
            lengths = values.is_valid().to_numpy(zero_copy_only=False).astype(np.int64)
            flat = values.drop_null()
        offsets = np.concatenate([[0], np.cumsum(lengths)])

        def row(entry: int) -> int:
            return int(np.searchsorted(offsets, entry, side="right")) - 1

        if flat.null_count:
            entry = int(np.argmax(flat.is_null().to_numpy(zero_copy_only=False)))
            raise self.error(row(entry), name, "a null stands among its ids; leave it out")
        try:
            ids = columns.ids(flat)
            if pa.types.is_string(ids.type) and pa.types.is_int64(kind):
                ids = columns.integers(ids)
        except RowError as error:
            given = columns.shown(flat[error.row].as_py())
            raise self.error(row(error.row), name, f"{given} is no id of type {kind}, as the items' are") from None
        except ValueError as error:
            raise ValueError(f"{self.path}: column {name!r}: {error}") from None
        if ids.type != kind:
            raise ValueError(
                f"{self.path}: column {name!r} has ids of type {ids.type} where the item table's are {kind}; write "
                "both alike"
            )
        return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), ids)

    def error(self, row: int, column: str, reason: str) -> ValueError:
        """Return what is wrong with a row, of number `row` in the table, with its file and its number there."""
        place = self.reader.locate(row)
        return ValueError(f"{place.path}: column {column!r}, row {place.first_row}: {reason}")


def opened(data: examples.Config, table: str, path: uri.Source) -> Table:
    """Open one of the source's tables, of which `path` is a day's part.

    Raises:
        ValueError: it cannot be opened, or two columns have one name.
    """
    reader = readers.build(readers.infer(path, data.csv))
    names = renamed(data, reader.schema.names)
    shown = data.source[table]
    refuse_twice(f"{shown}, renamed by data.columns" if data.columns else shown, names)
    return Table(shown, reader, names)


def renamed(data: examples.Config, names: list[str]) -> list[str]:
    """Return what columns of these names in a table are called here."""
    return [data.columns.get(name, name) for name in names]
