"""Encoding `identity`: an id is its own row."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys_core.features import base
from recsys_core.features.columns import flat
from recsys_core.features.encoders import row_of


class Identity(base.Encoder):
    """An id is its own row."""

    first_id_row = 0

    def __init__(self, num_embeddings: int) -> None:
        """Ids run from 0 to `num_embeddings` - 1."""
        self.num_embeddings = num_embeddings
        self.spec = {"encoding": "identity", "num_embeddings": num_embeddings}

    def encode(self, values: pa.Array) -> np.ndarray:
        """Return the ids themselves.

        Raises:
            ValueError: an id is no integer or lies outside of the table.
        """
        return self.rows(values, flat.ones(len(values)))[0]

    def rows(self, values: pa.Array, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the ids themselves; an id that is none of the table's rows is refused with its row of the data."""
        if not pa.types.is_integer(values.type):
            raise ValueError(f"encoding: identity needs integers, found {values.type}; use vocabulary or hash")
        rows = values.to_numpy(zero_copy_only=False)
        flat.outside(rows, lengths, self.num_embeddings)
        return rows, lengths

    def own_rows(self, ids: pa.Array) -> np.ndarray:
        """int64 [N]: the ids that are rows of the table, -1 for others."""
        rows = pc.fill_null(row_of.as_type(ids, pa.int64()), -1).to_numpy(zero_copy_only=False)
        return np.where((rows >= 0) & (rows < self.num_embeddings), rows, -1)

    def inside(self, before: base.Encoder) -> np.ndarray:
        """An id is its own row in both, as far as both go."""
        rows = np.arange(self.num_embeddings)
        return np.where(isinstance(before, Identity) & (rows < before.num_embeddings), rows, -1)
