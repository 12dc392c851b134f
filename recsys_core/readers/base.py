"""The contract of a reader: a table cut into blocks that can be read alone, in any order, by any rank and thread."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys_core import uri


class Part(NamedTuple):
    """The rows of one value of a partition key: what names just these, and what shows that they changed."""

    path: uri.Source
    fingerprint: str


class Place(NamedTuple):
    """Where a block stands: its file or table, and how many rows that has before it."""

    path: str
    first_row: int


class Reader(ABC):
    """A table of `num_rows` rows in blocks (a Parquet row group, say); opening one reads no rows.

    A component of this catalogue has a `Config`, and its `Reader(config, state=None)` opens the table. With `state`,
    that of a reader of the same config in another process, the store is not asked again: one rank opens the table,
    and all ranks see the same blocks.

    Attributes:
        schema: the table's schema, partition columns included.
        block_rows: [num_blocks] int64, rows of each block, in the table's order.
        fingerprint: by file or table, what shows that its content is still the same (size and time of change, a
            version). A position in the table holds for these contents only.
    """

    schema: pa.Schema
    block_rows: np.ndarray
    fingerprint: dict[str, str]

    @property
    def num_rows(self) -> int:
        """Rows of the whole table."""
        return int(self.block_rows.sum())

    @abstractmethod
    def read(self, block: int, columns: Sequence[str]) -> pa.Table:
        """Return the rows of one block, in order, with just `columns`; several threads may ask at once.

        Raises:
            ValueError: the block cannot be read; names the file or table, the rows, and what to do.
        """

    def place(self, block: int) -> Place:
        """Return where the rows of a block stand, for messages about one of them."""
        return Place("the table", int(self.block_rows[:block].sum()))

    def locate(self, row: int) -> Place:
        """Return where a row, of number `row` in the table, stands: its file, and its number there."""
        block = int(np.searchsorted(np.cumsum(self.block_rows), row, side="right"))
        place = self.place(block)
        return Place(place.path, place.first_row + row - int(self.block_rows[:block].sum()))

    def may_hold(self, condition: pc.Expression) -> np.ndarray:  # noqa: ARG002 - a store without statistics cannot say
        """Return for each block whether a row of it may fulfil `condition`, as far as is known without reading."""
        return np.ones(len(self.block_rows), dtype=bool)

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Return what opening the table found out, as JSON, for `Reader(config, state)` in another process."""
