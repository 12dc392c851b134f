"""CSV and TSV folders: `part-00000.csv` and so on, one for each rank, each with a header."""

import json
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
from pydantic import Field

from recsys_core.artifacts import ComponentConfig
from recsys_core.writers import _folder


class Config(ComponentConfig):
    """`path` is a local folder; it is replaced as a whole. Lists are written as JSON."""

    kind: Literal["csv"] = "csv"
    path: str
    delimiter: str = Field(default=",", min_length=1, max_length=1, description="a tab makes .tsv files")


class Writer(_folder.Part):
    """Writes one part; null is an empty field."""

    def __init__(self, file: Path, number: int, schema: pa.Schema, delimiter: str) -> None:
        """Open the part."""
        super().__init__(file, number)
        self._schema = pa.schema([(f.name, pa.string() if pa.types.is_nested(f.type) else f.type) for f in schema])
        self._file = pacsv.CSVWriter(file, self._schema, write_options=pacsv.WriteOptions(delimiter=delimiter))

    def write(self, table: pa.Table) -> None:
        """See `base.Writer.write`.

        Raises:
            ValueError: a text holds a line break, which readers of CSV would take for a row's end.
        """
        for name, column in zip(table.column_names, table.columns, strict=True):
            if pa.types.is_string(column.type) and pc.any(pc.match_substring(column, "\n")).as_py():
                raise ValueError(f"column {name!r} holds a text with a line break; write Parquet or ORC instead")
        self._file.write_table(pa.table([_flat(column) for column in table.columns], schema=self._schema))
        self.num_rows += table.num_rows

    def finish(self) -> None:
        """See `_folder.Part.finish`."""
        self._file.close()


class Table(_folder.Table):
    """See `_folder.Table`."""

    def __init__(self, config: Config) -> None:
        """Write to `config.path`."""
        super().__init__(config.path)
        self._config = config
        self.suffix = ".tsv" if config.delimiter == "\t" else ".csv"

    def require(self, schema: pa.Schema) -> None:
        """See `_folder.Table.require`."""
        for field in schema:
            if pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type):
                raise ValueError(
                    f"{self._config.path}: column {field.name!r}: CSV has no type for bytes; encode them as text, or "
                    "write Parquet"
                )

    def open(self, file: Path, number: int, schema: pa.Schema) -> Writer:
        """See `_folder.Table.open`."""
        return Writer(file, number, schema, self._config.delimiter)

    def count(self, file: Path) -> int:
        """See `_folder.Table.count`: lines without the header's."""
        with file.open("rb") as lines:
            return sum(chunk.count(b"\n") for chunk in iter(lambda: lines.read(1 << 20), b"")) - 1


def _flat(column: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
    if not pa.types.is_nested(column.type):
        return column
    return pa.array([None if value is None else json.dumps(value) for value in column.to_pylist()], pa.string())
