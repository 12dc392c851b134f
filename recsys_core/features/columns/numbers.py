"""Columns of numbers."""

import numpy as np
import pyarrow as pa


def floats(values: pa.Array) -> np.ndarray:
    """float64 [N] of numbers or booleans, nulls as NaN."""
    types, kind = pa.types, values.type
    if not (
        types.is_null(kind)
        or types.is_boolean(kind)
        or types.is_integer(kind)
        or types.is_floating(kind)
        or types.is_decimal(kind)
    ):
        raise ValueError(f"its type {kind} is no number; cast it, or use kind: id")
    # A null type and booleans reach float64 through integers only; integers beyond 2**53 may lose their last digits.
    if types.is_boolean(kind):
        values = values.cast(pa.int8())
    floats = values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    if np.isinf(floats).any():
        raise ValueError("holds an infinite number; replace it by null or a finite one")
    return floats
