"""Feature kind `sequence`: a list of ids per row, such as a click history, as rows of another feature's table."""

from typing import Literal

import pyarrow as pa
from pydantic import Field, PositiveInt

from recsys_core.features import base


class Config(base.FeatureConfig):
    """Keys of a sequence feature.

    `table` is the table of an id feature, of either side, whose encoding the sequence's ids share; it learns nothing
    from the sequence. Of a longer row the last `max_length` ids are kept: histories end with the most recent. With
    `pooling: none` a model gets every id's embedding, for attention over them.
    """

    kind: Literal["sequence"] = "sequence"
    table: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    max_length: PositiveInt | None = None
    pooling: base.SequencePooling = "mean"


class Feature(base.Feature):
    """Lists of ids as rows of another feature's table."""

    def __init__(self, config: Config) -> None:
        """The engine sets `encoder` to the one of the table's owner."""
        super().__init__(config)
        self.table = config.table
        self.pooling = config.pooling
        self._max_length = config.max_length

    def transform(self, column: pa.Array) -> base.Jagged:
        """Rows of the table, the most recent last, by row of the column."""
        assert self.encoder is not None
        if not base.is_list(column.type) and not pa.types.is_null(column.type):
            raise ValueError(f"its type {column.type} is no list; use kind: id for single values")
        values, lengths = base.bags(column)
        encoded = base.Jagged(self.encoder.encode(base.ids(values)), lengths)
        return encoded if self._max_length is None else encoded.last(self._max_length)
