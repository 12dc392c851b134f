"""Feature kind `match`: the values that a row's map of maps holds under a first and a second key."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys_core.features import _derived
from recsys_core.features.columns import flat, pairs
from recsys_core.features.columns.lists import Lists, listed, numbers, reduced, texts

_ALL = "ALL"


class Config(_derived.Config):
    """Keys of a match feature.

    `map` is a column of Arrow maps of maps, or of texts such as `a^x:1,y:2|b^x:3`. `first_key` and `second_key` are
    columns, or ALL, which every key answers. The value is the list of what was found, or with a `combiner` one number;
    shown keys stand before it, as in `a:x:1`. Nothing found is null.
    """

    kind: Literal["match"] = "match"
    map: str
    first_key: str = _ALL
    second_key: str = _ALL
    show_first_key: bool = False
    show_second_key: bool = False
    combiner: Literal["sum", "mean", "min", "max", "count"] | None = None
    separator: str | None = None


class Feature(_derived.Feature):
    """What is found, per row, in the order of the map."""

    def __init__(self, config: Config) -> None:
        """Read `map` and those keys that are columns."""
        keys = [key for key in (config.first_key, config.second_key) if key != _ALL]
        super().__init__(config, (config.map, *keys))
        self._config = config

    def make(self, columns: Sequence[pa.Array]) -> pa.Array:
        """Lists of values, or float64."""
        config, rest = self._config, list(columns[1:])
        outer, inner = pairs.nested(columns[0])
        owner = outer.owners[inner.owners]
        first = outer.keys.take(pa.array(inner.owners))
        keep = np.ones(len(owner), bool)
        for name, keys in ((config.first_key, first), (config.second_key, inner.keys)):
            if name != _ALL:
                keep &= _answers(flat.split(rest.pop(0), config.separator), owner, keys)
        kept = pa.array(keep)
        values, lengths = inner.values.filter(kept), np.bincount(owner[keep], minlength=len(outer.lengths))
        if config.combiner is not None:
            return numbers(reduced(pairs.numbers(values), lengths, config.combiner))
        shown = [first.filter(kept)] if config.show_first_key else []
        shown += [inner.keys.filter(kept)] if config.show_second_key else []
        if shown:
            values = pc.binary_join_element_wise(*shown, texts(values), ":")
        return listed(values, lengths)


def _answers(asked: pa.Array, owners: np.ndarray, keys: pa.Array) -> np.ndarray:
    """Bool [N]: whether each key is one of those that its row asks for."""
    lists = Lists(asked)
    asked_codes, held_codes = pairs.codes(texts(lists.values), keys)
    question, _ = pairs.found(owners, held_codes, lists.owners, asked_codes)
    return np.bincount(question, minlength=len(keys)) > 0
