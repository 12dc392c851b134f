"""Ids of users, items and whatever else has a row of its own: int64 or text, exactly, whatever the file holds."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys_core.columns.layout import RowError, cast, is_bytes, plain, plain_type, text

# Up to these, which are not among them, a floating number stands for one whole number only.
_EXACT = {16: 2**11, 32: 2**24, 64: 2**53}
_WHOLE = r"^[+-]?[0-9]+(\.0*)?$"
_BESIDE_DIGITS = r"^\+|\.0*$"


def is_id(kind: pa.DataType) -> bool:
    """Return whether values of `kind` can be ids, as far as the type says."""
    types, kind = pa.types, plain_type(kind)
    return (
        types.is_null(kind)
        or types.is_boolean(kind)
        or types.is_integer(kind)
        or types.is_string(kind)
        or is_inexact(kind)
        or is_bytes(kind)
    )


def is_inexact(kind: pa.DataType) -> bool:
    """Return whether `kind` holds ids only where its numbers are whole: floating numbers and decimals."""
    return pa.types.is_floating(kind) or pa.types.is_decimal(kind)


def id_type(kind: pa.DataType) -> pa.DataType:
    """Return the type that `ids` gives to values of `kind`."""
    return ids(pa.array([], kind)).type


def ids(values: pa.Array) -> pa.Array:
    """Bring flat values to the two types that ids have: int64 or string. A NaN is null.

    Raises:
        RowError: a number with a fraction or beyond what its type holds exactly, an unsigned one beyond int64, or bytes
            that are no UTF-8.
        ValueError: the type cannot be an id.
    """
    types, values = pa.types, plain(values)
    kind = values.type
    if types.is_int64(kind) or types.is_string(kind):
        return values
    if types.is_null(kind) or types.is_boolean(kind):
        return values.cast(pa.int64())
    if types.is_integer(kind):
        return cast(values, pa.int64(), lambda value: f"id {value} is beyond int64; write ids of that size as text")
    if is_bytes(kind):
        return text(values)
    if types.is_decimal(kind):
        return cast(values, pa.int64(), lambda value: f"id {value} is no whole number of int64; write ids as text")
    if types.is_floating(kind):
        return _of_floats(values)
    raise ValueError(f"its type {kind} cannot hold ids; cast it to an integer or a string, or use kind: raw")


def integers(texts: pa.Array) -> pa.Array:
    """Read flat texts as int64: `7`, `007`, `+7` and, as a floating number is written, `7.0` are all 7.

    Raises:
        RowError: a text is no whole number, or one beyond int64.
    """
    if not pc.all(pc.ascii_is_decimal(texts)).as_py():
        refused = pc.index(pc.match_substring_regex(texts, _WHOLE), pa.scalar(False)).as_py()  # noqa: FBT003 - a value
        if refused >= 0:
            raise RowError(
                refused, f"id {texts[refused].as_py()!r} is no whole number, which integers: true says it is"
            )
        texts = pc.replace_substring_regex(texts, _BESIDE_DIGITS, "")
    return cast(texts, pa.int64(), lambda value: f"id {value} is beyond int64; leave integers out, and it is a text")


def _of_floats(values: pa.Array) -> pa.Array:
    numbers = values.cast(pa.float64()).to_numpy(zero_copy_only=False)
    missing = np.isnan(numbers)
    limit = _EXACT[values.type.bit_width]
    with np.errstate(invalid="ignore"):
        refused = ~missing & ~((np.floor(numbers) == numbers) & (np.abs(numbers) < limit))
    if refused.any():
        row = int(np.argmax(refused))
        reason = (
            f"is beyond 2**{limit.bit_length() - 1}, where {values.type} does not hold every whole number"
            if np.abs(numbers[row]) >= limit
            else "is no whole number"
        )
        raise RowError(row, f"id {numbers[row].item()!r} {reason}; write ids as integers or text")
    return pa.array(np.where(missing, 0, numbers).astype(np.int64), mask=missing)
