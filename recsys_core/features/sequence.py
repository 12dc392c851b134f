"""Feature kind `sequence`: a list of ids per row, such as a click history, as rows of another feature's table."""

from typing import Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from recsys_core.features import base
from recsys_core.features.columns import bags as _bags
from recsys_core.features.columns import flat
from recsys_core.features.encoders import identity as ids


class Config(base.SparseConfig):
    """Keys of a sequence feature.

    `table` is the table of an id feature, of either side, whose encoding the sequence's ids share; it learns nothing
    from the sequence. A sequence with a table of its own is of kind id.
    """

    kind: Literal["sequence"] = "sequence"
    table: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    input: Literal["raw", "encoded"] = Field(
        default="raw", description="encoded: entries are rows of the table, made by an upstream job"
    )
    out_of_range: Literal["refuse", "drop"] = Field(
        default="refuse", description="what becomes of encoded entries that are no rows of the table; drop counts them"
    )


class Feature(base.Feature):
    """Lists of ids as rows of another feature's table."""

    reads_ids = True

    def __init__(self, config: Config) -> None:
        """The engine sets `encoder` to the one of the table's owner."""
        super().__init__(config)
        self.table = config.table
        self.take_pooling(config)
        self._config = config
        self._left_out = _bags.LeftOut()

    def to_encode(self, column: pa.Array) -> tuple[pa.Array, np.ndarray] | None:
        """Return the ids, unless they are rows already, or more than their rows is wanted."""
        if self._config.input == "encoded" or self._config.weighted or self._config.tile_length is not None:
            return None
        bags = self._read(column)
        return bags.values, bags.lengths

    def transform(self, column: pa.Array) -> base.Jagged:
        """Rows of the table, the most recent last, by row of the column.

        Raises:
            ValueError: the column holds no lists of ids, or an encoded entry is no row of the table.
        """
        assert self.encoder is not None
        bags = self._read(column)
        if self._config.input == "raw":
            rows, lengths = self.encoder.rows(bags.values, bags.lengths)
            return _bags.pooled(rows, lengths, bags, self._config)
        if not pa.types.is_integer(bags.values.type):
            raise ValueError(
                f"rows of a table are integers, found {bags.values.type}; use input: raw for ids of the data"
            )
        bags = bags.inside(self.encoder.num_embeddings, self._config.out_of_range)
        self._left_out.add(bags)
        return _bags.pooled(bags.values.to_numpy(zero_copy_only=False), bags.lengths, bags, self._config)

    def _read(self, column: pa.Array) -> _bags.Bags:
        kind = flat.split(column.slice(0, 0), self._config.separator).type
        if not (base.is_list(kind) or pa.types.is_null(kind) or (self._config.weighted and pa.types.is_map(kind))):
            raise ValueError(f"its type {kind} is no list; use kind: id for single values, or give a separator")
        bags = _bags.read(column, self._config)
        if self._config.input == "encoded" or isinstance(self.encoder, ids.Identity):
            bags = bags.as_integers()
        return bags

    def report(self) -> dict[str, int]:
        """How many entries were left out because they are no rows of the table, since the engine was made."""
        return self._left_out.report(self._config.out_of_range)
