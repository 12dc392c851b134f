"""Parquet folders: `part-00000.parquet` and so on, one for each rank."""

from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from recsys_core.artifacts import ComponentConfig
from recsys_core.writers import _folder


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
        self._file = pq.ParquetWriter(self._path, schema, compression=compression)

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
