"""Feature kind `kv_dot_product`: the dot product of two sparse vectors, given as keys with numbers."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pyarrow as pa

from recsys_core.features import _derived
from recsys_core.features.columns import lists, pairs


class Config(_derived.Config):
    """Keys of a kv_dot_product feature.

    `left` and `right` are columns of Arrow maps, or of texts `key:number` (lists, or split at `separator`). A key
    without a number counts 1, so that of two lists of keys the result is how many they share. Nothing shared is 0.
    """

    kind: Literal["kv_dot_product"] = "kv_dot_product"
    left: str
    right: str
    separator: str | None = None
    pair_separator: str = ":"


class Feature(_derived.Feature):
    """One number per row."""

    def __init__(self, config: Config) -> None:
        """Read `left` and `right`."""
        super().__init__(config, (config.left, config.right))
        self._config = config

    def make(self, columns: Sequence[pa.Array]) -> pa.Array:
        """float64."""
        left, right = (pairs.pairs(c, self._config.separator, self._config.pair_separator) for c in columns)
        left_codes, right_codes = pairs.codes(left.keys, right.keys)
        question, place = pairs.found(left.owners, left_codes, right.owners, right_codes)
        products = pairs.numbers(left.values, 1.0)[question] * pairs.numbers(right.values, 1.0)[place]
        return lists.numbers(np.bincount(left.owners[question], products, minlength=len(left.lengths)))
