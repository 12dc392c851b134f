"""Parquet files and folders; a block is a row group."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys_core import uri
from recsys_core.artifacts import Frozen
from recsys_core.readers import base


class Config(Frozen):
    """`path` is anything that the path grammar of `uri` takes."""

    kind: Literal["parquet"] = "parquet"
    path: str


class Reader(base.Reader):
    """Reads row groups; footers are read once, when it is opened."""

    def __init__(self, config: Config) -> None:
        """Read the footers of `config.path`'s files.

        Raises:
            ValueError: no such file, a file that is not Parquet, or files of different schemas (both are named).
        """
        self._blocks: list[tuple[Path, int]] = []
        self._open: tuple[Path, pq.ParquetFile] | None = None
        rows: list[int] = []
        first: Path | None = None
        for path in (Path(source.path) for source in uri.resolve(config.path)):
            try:
                footer = pq.read_metadata(path)
            except (pa.ArrowInvalid, OSError) as error:
                raise ValueError(
                    f"{path}: not a readable Parquet file ({error}); write it again or remove it"
                ) from None
            schema = footer.schema.to_arrow_schema().remove_metadata()
            if first is None:
                first, self.schema = path, schema
            elif schema != self.schema:
                raise ValueError(f"{path}: its schema differs from that of {first}:\n{schema}\nversus\n{self.schema}")
            self._blocks.extend((path, group) for group in range(footer.num_row_groups))
            rows.extend(footer.row_group(group).num_rows for group in range(footer.num_row_groups))
        self.block_rows = np.array(rows, dtype=np.int64)

    def read(self, block: int, columns: Sequence[str]) -> pa.Table:
        """See `base.Reader.read`."""
        path, group = self._blocks[block]
        try:
            if self._open is None or self._open[0] != path:
                self._open = path, pq.ParquetFile(path)
            return self._open[1].read_row_group(group, columns=list(columns))
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(f"{path}: row group {group} cannot be read ({error}); write the file again") from None
