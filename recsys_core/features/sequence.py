"""Feature kind `sequence`: a list of ids per row, such as a click history, as rows of another feature's table."""

from typing import Literal

import pyarrow as pa
from pydantic import Field

from recsys_core.features import _bags, base
from recsys_core.features import id as ids


class Config(base.SparseConfig):
    """Keys of a sequence feature.

    `table` is the table of an id feature, of either side, whose encoding the sequence's ids share; it learns nothing
    from the sequence. A sequence with a table of its own is of kind id.
    """

    kind: Literal["sequence"] = "sequence"
    table: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")


class Feature(base.Feature):
    """Lists of ids as rows of another feature's table."""

    def __init__(self, config: Config) -> None:
        """The engine sets `encoder` to the one of the table's owner."""
        super().__init__(config)
        self.table = config.table
        self.take_pooling(config)
        self._config = config

    def transform(self, column: pa.Array) -> base.Jagged:
        """Rows of the table, the most recent last, by row of the column."""
        assert self.encoder is not None
        kind = base.split(column.slice(0, 0), self._config.separator).type
        if not (base.is_list(kind) or pa.types.is_null(kind) or (self._config.weighted and pa.types.is_map(kind))):
            raise ValueError(f"its type {kind} is no list; use kind: id for single values, or give a separator")
        bags = _bags.read(column, self._config)
        if isinstance(self.encoder, ids.Identity):
            bags = bags.as_integers()
        return _bags.pooled(*self.encoder.rows(bags.values, bags.lengths), bags, self._config)
