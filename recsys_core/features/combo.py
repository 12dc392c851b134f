"""Feature kind `combo`: the cross of several columns: every combination of their values is one value."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from recsys_core.features import _derived, base
from recsys_core.features.columns import flat, lists

_SEPARATOR = "\x1e"


class Config(_derived.Config):
    """Keys of a combo feature.

    A row's values are the texts of all combinations, the last column's values changing fastest, joined by the
    character U+001E. A row in which a column has no value has none. The output is mostly `{kind: id, encoding: hash}`.
    """

    kind: Literal["combo"] = "combo"
    columns: tuple[str, ...] = Field(min_length=2)


class Feature(_derived.Feature):
    """All combinations of a row's values."""

    def __init__(self, config: Config) -> None:
        """Read `columns`."""
        super().__init__(config, config.columns)

    def make(self, columns: Sequence[pa.Array]) -> pa.Array:
        """Lists of texts; single texts where every column has single values."""
        values, lengths = flat.bags(columns[0])
        joined = lists.texts(values)
        single = not base.is_list(columns[0].type)
        for column in columns[1:]:
            more, counts = flat.bags(column)
            single = single and not base.is_list(column.type)
            # Row r has lengths[r] * counts[r] pairs: each value so far, counts[r] times over.
            repeats = np.repeat(counts, lengths)
            left = np.repeat(np.arange(len(joined)), repeats)
            starts = np.repeat(np.cumsum(counts) - counts, lengths)
            right = flat.spans(starts.astype(np.int64), repeats)
            joined = pc.binary_join_element_wise(
                joined.take(pa.array(left)), lists.texts(more).take(pa.array(right)), _SEPARATOR
            )
            lengths = lengths * counts
        found = lists.listed(joined, lengths)
        return pc.list_element(found, 0) if single else found
