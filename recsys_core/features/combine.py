"""Feature kind `combine`: a row's values, as numbers, reduced to one."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import field_validator

from recsys_core.features import _derived
from recsys_core.features.columns import flat, lists
from recsys_core.features.columns.numbers import floats

Combiner = Literal["sum", "mean", "min", "max", "count", "gap_min", "gap_max"]


class Config(_derived.Config):
    """Keys of a combine feature.

    With `values` every text (or integer) stands for a number, and others are left out; without, the column holds
    numbers. `gap_min` and `gap_max` are the smallest and largest difference of neighbours. No value, no result.
    """

    kind: Literal["combine"] = "combine"
    combiner: Combiner = "sum"
    values: tuple[tuple[str, float], ...] | None = None
    separator: str | None = None

    @field_validator("values", mode="before")
    @classmethod
    def _pairs(cls, values: Any) -> Any:
        return tuple((str(key), number) for key, number in values.items()) if isinstance(values, dict) else values


class Feature(_derived.Feature):
    """One number per row."""

    def __init__(self, config: Config) -> None:
        """Prepare the map."""
        super().__init__(config)
        self._config = config
        self._keys = pa.array([key for key, _ in config.values or ()], pa.string())
        self._numbers = np.array([number for _, number in config.values or ()], np.float64)

    def make(self, columns: Sequence[pa.Array]) -> pa.Array:
        """float64, null where there is no value."""
        values, lengths = flat.bags(flat.split(columns[0], self._config.separator))
        if self._config.values is None:
            return lists.numbers(lists.reduced(floats(values), lengths, self._config.combiner))
        found = pc.index_in(lists.texts(values), self._keys)
        known = found.is_valid().to_numpy(zero_copy_only=False)
        owners = np.repeat(np.arange(len(lengths)), lengths)[known]
        numbers = self._numbers[found.drop_null().to_numpy()]
        lengths = np.bincount(owners, minlength=len(lengths))
        return lists.numbers(lists.reduced(numbers, lengths, self._config.combiner))
