"""Parquet parts, `part-00000.parquet` and so on, one for each rank."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from recsys_core.writers import base


class Writer(base.Writer):
    """Writes one zstd-compressed part; fixed-size lists stay fixed-size, so a vector costs its bytes and no more."""

    def __init__(self, directory: Path, part: int, schema: pa.Schema, rows_per_group: int = 16_384) -> None:
        """Create `directory` and open its part number `part`."""
        directory.mkdir(parents=True, exist_ok=True)
        self._rows_per_group = rows_per_group
        self._file = pq.ParquetWriter(directory / f"part-{part:05d}.parquet", schema, compression="zstd")

    def write(self, table: pa.Table) -> None:
        """See `base.Writer.write`."""
        self._file.write_table(table, row_group_size=self._rows_per_group)
        self.num_rows += table.num_rows

    def close(self) -> None:
        """See `base.Writer.close`."""
        self._file.close()
