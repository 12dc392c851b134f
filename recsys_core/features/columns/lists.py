"""Columns seen as lists: flat values, and what is made of each row's."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys_core.features import base
from recsys_core.features.columns import flat


class Lists:
    """A column seen as lists: flat values, nulls left out, and how many each row has.

    `was_list` says whether the column had lists; `back` makes a column of one value per flat value again.
    """

    def __init__(self, column: pa.Array) -> None:
        """Take a column of values or lists."""
        self.was_list = base.is_list(column.type)
        self.values, self.lengths = flat.bags(column)
        self.offsets = np.concatenate([[0], np.cumsum(self.lengths)])

    @property
    def owners(self) -> np.ndarray:
        """int64 [N]: the row of each value."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    def back(self, values: pa.Array) -> pa.Array:
        """Put N new values where the old ones were."""
        if self.was_list:
            return pa.ListArray.from_arrays(pa.array(self.offsets, pa.int32()), values)
        return values.take(pa.array(np.cumsum(self.lengths) - 1, mask=self.lengths == 0))


def listed(values: pa.Array, lengths: np.ndarray) -> pa.Array:
    """Return lists of `lengths` of the values; a list without values is null."""
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    return pa.ListArray.from_arrays(offsets, values, mask=pa.array(np.asarray(lengths) == 0))


def texts(values: pa.Array) -> pa.Array:
    """Bring flat values to texts: integers in decimal, floats as Arrow writes them."""
    if pa.types.is_string(values.type):
        return values
    return pc.cast(values, pa.string())


def reduced(numbers: np.ndarray, lengths: np.ndarray, combiner: str) -> np.ndarray:
    """float64 [B]: sum, mean, min, max, count, or the range of each row's numbers; NaN for a row without any.

    `gap_min` and `gap_max` are the smallest and the largest difference of neighbours in the given order.
    """
    if combiner == "count":
        return lengths.astype(np.float64)
    if combiner in ("gap_min", "gap_max"):
        first = np.cumsum(lengths) - lengths
        inner = np.ones(len(numbers), bool)
        inner[first[lengths > 0]] = False
        numbers = np.diff(numbers, prepend=0.0)[inner]
        lengths = np.maximum(lengths - 1, 0)
    found = np.full(len(lengths), np.nan)
    filled = np.flatnonzero(lengths)
    if len(filled):
        function = {"sum": np.add, "mean": np.add}.get(combiner, np.minimum if "min" in combiner else np.maximum)
        found[filled] = function.reduceat(numbers, (np.cumsum(lengths) - lengths)[filled])
        if combiner == "mean":
            found[filled] /= lengths[filled]
    return found


def numbers(values: np.ndarray) -> pa.Array:
    """Return float64 numbers as a column, NaN as null."""
    return pa.array(values, from_pandas=True)
