"""Parquet folders: `part-00000.parquet` and so on, one for each rank."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from recsys_core.artifacts import ComponentConfig
from recsys_core.writers import _folder

_IN_LIST = ".list.element"


class Config(ComponentConfig):
    """`path` is a local folder; it is replaced as a whole."""

    kind: Literal["parquet"] = "parquet"
    path: str
    compression: Literal["zstd", "snappy", "none"] = "zstd"
    rows_per_group: int = Field(default=16_384, ge=1)


class Writer(_folder.Part):
    """Writes one part; fixed-size lists stay fixed-size, so a vector costs its bytes and no more."""

    def __init__(
        self,
        directory: Path,
        part: int,
        schema: pa.Schema,
        rows_per_group: int = 16_384,
        compression: str = "zstd",
    ) -> None:
        """Create `directory` and open its part number `part`."""
        super().__init__(directory / f"part-{part:05d}.parquet", part)
        self._rows_per_group = rows_per_group
        leaves = dict(leaf for field in schema for leaf in _leaves(field.name, field.type))
        # Of lists of ids, a dictionary is as long as they are; they are packed, which takes half the time.
        packed = {path for path, kind in leaves.items() if path.endswith(_IN_LIST) and pa.types.is_integer(kind)}
        # Of fractions hardly one is there twice: to look for them takes three times as long as to write them.
        repeating = [path for path, kind in leaves.items() if not _is_fraction(kind) and path not in packed]
        self._file = pq.ParquetWriter(
            self._path,
            schema,
            compression=compression,
            use_dictionary=repeating,  # pyright: ignore[reportArgumentType] - a list of columns is understood
            column_encoding=dict.fromkeys(packed, "DELTA_BINARY_PACKED") or None,
        )

    def write(self, table: pa.Table) -> None:
        """See `base.Writer.write`."""
        self._file.write_table(table, row_group_size=self._rows_per_group)
        self.num_rows += table.num_rows

    def finish(self) -> None:
        """See `_folder.Part.finish`."""
        self._file.close()


class Table(_folder.Table):
    """See `_folder.Table`."""

    suffix = ".parquet"

    def __init__(self, config: Config) -> None:
        """Write to `config.path`."""
        super().__init__(config.path)
        self._config = config

    def open(self, file: Path, number: int, schema: pa.Schema) -> Writer:
        """See `_folder.Table.open`."""
        return Writer(file.parent, number, schema, self._config.rows_per_group, self._config.compression)

    def count(self, file: Path) -> int:
        """See `_folder.Table.count`."""
        return pq.read_metadata(file).num_rows


def _is_fraction(kind: pa.DataType) -> bool:
    return pa.types.is_floating(kind)


def _leaves(path: str, kind: pa.DataType) -> Iterator[tuple[str, pa.DataType]]:
    """Yield the columns that Parquet stores a column in, as it calls them, each with its type."""
    if pa.types.is_map(kind):
        yield from _leaves(f"{path}.key_value.key", kind.key_type)
        yield from _leaves(f"{path}.key_value.value", kind.item_type)
    elif pa.types.is_struct(kind):
        for field in kind:
            yield from _leaves(f"{path}.{field.name}", field.type)
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        yield from _leaves(f"{path}{_IN_LIST}", kind.value_type)
    else:
        yield path, kind
