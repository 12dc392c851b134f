"""A table that is in memory already; it is opened in Python, not by a config."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from recsys_core.readers import base

_ROWS_PER_BLOCK = 16_384


class Reader(base.Reader):
    """Cuts an Arrow table into blocks without copying it."""

    def __init__(self, table: pa.Table) -> None:
        """Hold `table`; it must not change while it is read."""
        self._table = table
        self.schema = table.schema
        starts = np.arange(0, table.num_rows, _ROWS_PER_BLOCK)
        self.block_rows = np.minimum(_ROWS_PER_BLOCK, table.num_rows - starts).astype(np.int64)
        self.fingerprint = {"memory": f"{table.num_rows} rows"}

    def read(self, block: int, columns: Sequence[str]) -> pa.Table:
        """See `base.Reader.read`."""
        return self._table.select(list(columns)).slice(block * _ROWS_PER_BLOCK, int(self.block_rows[block]))

    def state(self) -> dict[str, Any]:
        """See `base.Reader.state`; no store had to be asked."""
        return {}
