"""Feature kind `sequence`: a list of ids per row, such as a click history, as rows of another feature's table."""

from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, PositiveInt

from recsys_core.features import base


class Config(base.FeatureConfig):
    """Keys of a sequence feature.

    `table` is the table of an id feature, of either side, whose encoding the sequence's ids share; it learns nothing
    from the sequence. Of a longer row the last `max_length` entries are kept: histories end with the most recent; or,
    with `keep: first`, the first. An entry may itself be a list, whose ids are kept or left out together. With
    `pooling: none` a model gets every id's embedding, for attention over them.
    """

    kind: Literal["sequence"] = "sequence"
    table: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    max_length: PositiveInt | None = None
    keep: Literal["last", "first"] = "last"
    separator: str | None = Field(default=None, min_length=1, description="splits texts into lists")
    pooling: base.SequencePooling = "mean"
    input: Literal["raw", "encoded"] = Field(
        default="raw", description="encoded: entries are rows of the table, made by an upstream job"
    )
    out_of_range: Literal["refuse", "drop"] = Field(
        default="refuse", description="what becomes of encoded entries that are no rows of the table; drop counts them"
    )


class Feature(base.Feature):
    """Lists of ids as rows of another feature's table."""

    def __init__(self, config: Config) -> None:
        """The engine sets `encoder` to the one of the table's owner."""
        super().__init__(config)
        self.table = config.table
        self.pooling = config.pooling
        self._config = config
        self.num_out_of_range = 0

    def to_encode(self, column: pa.Array) -> tuple[pa.Array, np.ndarray] | None:
        """Return the ids, unless they are rows already."""
        return self._bags(column) if self._config.input == "raw" else None

    def transform(self, column: pa.Array) -> base.Jagged:
        """Rows of the table, the most recent last, by row of the column.

        Raises:
            ValueError: the column holds no lists of ids, or an encoded entry is no row of the table.
        """
        assert self.encoder is not None
        values, lengths = self._bags(column)
        if self._config.input == "raw":
            return base.Jagged(*self.encoder.rows(values, lengths))
        if not pa.types.is_integer(values.type):
            raise ValueError(f"rows of a table are integers, found {values.type}; use input: raw for ids of the data")
        rows, lengths, outside = base.inside(
            values.to_numpy(zero_copy_only=False), lengths, self.encoder.num_embeddings, self._config.out_of_range
        )
        self.num_out_of_range += outside
        return base.Jagged(rows, lengths)

    def _bags(self, column: pa.Array) -> tuple[pa.Array, np.ndarray]:
        column = base.split(column, self._config.separator)
        if not base.is_list(column.type) and not pa.types.is_null(column.type):
            raise ValueError(f"its type {column.type} is no list; use kind: id for single values, or give a separator")
        if self._config.max_length is not None:
            column = truncated(column, self._config.max_length, self._config.keep)
        values, lengths = base.bags(column)
        return base.ids(values), lengths

    def report(self) -> dict[str, int]:
        """How many entries were left out because they are no rows of the table, since the engine was made."""
        return {"out_of_range": self.num_out_of_range} if self._config.out_of_range == "drop" else {}


def truncated(column: pa.Array, max_length: int, keep: Literal["last", "first"]) -> pa.Array:
    """Shorten lists to `max_length` entries (nulls are none), whatever the entries are."""
    if pa.types.is_null(column.type):
        return column
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    entries = pc.list_flatten(column)
    if entries.null_count:
        valid = entries.is_valid().to_numpy(zero_copy_only=False)
        lengths = np.bincount(np.repeat(np.arange(len(lengths)), lengths)[valid], minlength=len(lengths))
        entries = entries.drop_null()
    if lengths.max(initial=0) > max_length:
        whole = base.Jagged(np.arange(len(entries)), lengths)
        kept = whole.last(max_length) if keep == "last" else whole.first(max_length)
        entries, lengths = entries.take(pa.array(kept.values)), kept.lengths
    return pa.ListArray.from_arrays(pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32()), entries)
