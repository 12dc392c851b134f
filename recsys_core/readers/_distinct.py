"""Of the rows with one value of a column only the first or the last; to everything downstream, a table like others."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from recsys_core.readers.base import Place, Reader

Keep = Literal["first", "last"]


class Distinct(Reader):
    """The rows of `whole` by which each value of `column` occurs for the first (or last) time, in the table's order.

    Null is a value. Opening it reads the column once.
    """

    def __init__(self, whole: Reader, column: str, keep: Keep = "first") -> None:
        """Find the rows.

        Raises:
            ValueError: there is no such column, or it holds lists.
        """
        if column not in whole.schema.names:
            raise ValueError(f"distinct by {column!r}: there is no such column, only {', '.join(whole.schema.names)}")
        kind = whole.schema.field(column).type
        if pa.types.is_nested(kind):
            raise ValueError(f"distinct by {column!r}: it is {kind}; name a column of plain values")
        self.schema, self.fingerprint = whole.schema, whole.fingerprint
        self._whole = whole
        blocks = [whole.read(block, [column]).column(column) for block in range(len(whole.block_rows))]
        chunks = [
            chunk.cast(kind.value_type) if pa.types.is_dictionary(kind) else chunk for b in blocks for chunk in b.chunks
        ]
        values = pa.chunked_array(chunks, kind.value_type if pa.types.is_dictionary(kind) else kind)
        kept = _positions(values, keep)
        ends = np.cumsum(whole.block_rows)
        self._kept = np.split(kept, np.searchsorted(kept, ends[:-1])) if len(ends) else []
        self._starts = ends - whole.block_rows
        self.block_rows = np.array([len(rows) for rows in self._kept], dtype=np.int64)

    def read(self, block: int, columns: Sequence[str]) -> pa.Table:
        """See `Reader.read`."""
        rows = self._kept[block] - self._starts[block]
        return self._whole.read(block, columns).take(pa.array(rows))

    def place(self, block: int) -> Place:
        """See `Reader.place`."""
        return self._whole.place(block)

    def locate(self, row: int) -> Place:
        """See `Reader.locate`."""
        return self._whole.locate(int(np.concatenate(self._kept)[row]))

    def state(self) -> dict[str, Any]:
        """See `Reader.state`: each process reads the column itself."""
        return self._whole.state()


def _positions(values: pa.ChunkedArray, keep: Keep) -> np.ndarray:
    """Return the rising positions at which values occur for the first or last time."""
    whole = values.combine_chunks()
    codes = whole.dictionary_encode(null_encoding="encode").indices.to_numpy(zero_copy_only=False)
    positions = np.arange(len(codes))
    found = np.empty(int(codes.max(initial=-1)) + 1, dtype=np.int64)
    # Of equal indices the last assignment counts.
    if keep == "first":
        found[codes[::-1]] = positions[::-1]
    else:
        found[codes] = positions
    return np.sort(found)
