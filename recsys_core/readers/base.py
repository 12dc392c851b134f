"""The contract of a reader: a table cut into blocks that can be read alone, in any order, by any rank."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import pyarrow as pa


class Reader(ABC):
    """A table of `num_rows` rows in blocks (a Parquet row group, say); opening one reads no rows.

    Attributes:
        schema: the table's schema.
        block_rows: [num_blocks] int64, rows of each block, in the table's order.
    """

    schema: pa.Schema
    block_rows: np.ndarray

    @property
    def num_rows(self) -> int:
        """Rows of the whole table."""
        return int(self.block_rows.sum())

    @abstractmethod
    def read(self, block: int, columns: Sequence[str]) -> pa.Table:
        """Return the rows of one block, in order, with just `columns`.

        Raises:
            ValueError: the block cannot be read; names the file and what to do.
        """
