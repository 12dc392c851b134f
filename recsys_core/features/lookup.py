"""Feature kind `lookup`: the values that a row's map holds under the row's keys."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys_core.features import _derived
from recsys_core.features.columns import flat, lists, pairs
from recsys_core.features.combine import Combiner


class Config(_derived.Config):
    """Keys of a lookup feature.

    `map` is a column of Arrow maps, or of texts `key:value` (lists, or split at `separator`); `key` is a column of keys
    or lists of them. The value is the list of what was found, or with a `combiner` one number; `show_key` makes each
    found one the text `key:value`. Nothing found is null.
    """

    kind: Literal["lookup"] = "lookup"
    map: str
    key: str
    separator: str | None = None
    pair_separator: str = ":"
    combiner: Combiner | None = None
    show_key: bool = False


class Feature(_derived.Feature):
    """What is found, per row."""

    def __init__(self, config: Config) -> None:
        """Read `map` and `key`."""
        super().__init__(config, (config.map, config.key))
        self._config = config

    def make(self, columns: Sequence[pa.Array]) -> pa.Array:
        """Lists of values in the order of the keys, or float64."""
        held = pairs.pairs(columns[0], self._config.separator, self._config.pair_separator)
        asked = lists.Lists(flat.split(columns[1], self._config.separator))
        held_codes, asked_codes = pairs.codes(held.keys, lists.texts(asked.values))
        question, place = pairs.found(asked.owners, asked_codes, held.owners, held_codes)
        values = held.values.take(pa.array(place))
        lengths = np.bincount(asked.owners[question], minlength=len(asked.lengths))
        if self._config.combiner is not None:
            return lists.numbers(lists.reduced(pairs.numbers(values), lengths, self._config.combiner))
        if self._config.show_key:
            keys = held.keys.take(pa.array(place))
            values = pc.binary_join_element_wise(keys, lists.texts(values), self._config.pair_separator)
        return lists.listed(values, lengths)
