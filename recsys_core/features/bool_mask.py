"""Feature kind `bool_mask`: those values of a list whose place in another list is true."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys_core.features import _derived, base
from recsys_core.features.columns import lists


class Config(_derived.Config):
    """Keys of a bool_mask feature.

    `values` and `mask` are columns of lists of one length in each row, or both of single values. A null in the mask is
    false; with `negate` the values are kept where it is false.
    """

    kind: Literal["bool_mask"] = "bool_mask"
    values: str
    mask: str
    negate: bool = False


class Feature(_derived.Feature):
    """Lists of the values that are kept."""

    def __init__(self, config: Config) -> None:
        """Read `values` and `mask`."""
        super().__init__(config, (config.values, config.mask))
        self._negate = config.negate

    def make(self, columns: Sequence[pa.Array]) -> pa.Array:
        """Lists; null for a row that keeps nothing."""
        (values, lengths), (mask, counts) = (_flat(column) for column in columns)
        different = np.flatnonzero(lengths != counts)
        if len(different):
            row = different[0]
            raise ValueError(f"row {row} has {lengths[row]} values and {counts[row]} in the mask; give as many of both")
        if not (pa.types.is_boolean(mask.type) or pa.types.is_integer(mask.type) or pa.types.is_null(mask.type)):
            raise ValueError(f"the mask holds {mask.type}; give booleans, or 0 and 1")
        keep = pc.fill_null(mask.cast(pa.bool_()), False).to_numpy(zero_copy_only=False)  # noqa: FBT003
        keep = ~keep if self._negate else keep
        owners = np.repeat(np.arange(len(lengths)), lengths)[keep]
        return lists.listed(values.filter(pa.array(keep)), np.bincount(owners, minlength=len(lengths)))


def _flat(column: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """Flatten lists, with their nulls, which have places of their own."""
    if not base.is_list(column.type):
        return column, np.ones(len(column), np.int64)
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    return pc.list_flatten(column), lengths
