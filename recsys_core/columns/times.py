"""Times of whatever form as whole Unix seconds in UTC.

A time without a zone is one of UTC. A fraction of a second is left out: the time is the second in which it lies.
Numbers are Unix seconds (years 1 to 9999), or, where that is plain from their size, milliseconds, microseconds or
nanoseconds (years 1978 to 2262).
"""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys_core.columns.layout import RowError, cast, is_bytes, plain, plain_type, shown, text

_FIRST, _END = -62_135_596_800, 253_402_300_800  # 0001-01-01 and 10000-01-01
_DAY_SECONDS = 86_400
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
UNITS = ("seconds", "milliseconds", "microseconds", "nanoseconds")
_LATEST_SECOND = (2**63 - 1) // 10**9  # of int64 nanoseconds
_NUMBER = r"^[+-]?\d+(\.\d*)?$"
_COMPACT = r"^\d{8}$|^\d{14}$"
_ISO = (
    r"^(?P<day>\d{4}-\d{2}-\d{2})(?:[Tt ]+(?P<clock>\d{2}:\d{2}(?::\d{2})?)(?:[.,](?P<fraction>\d+))?)?"
    r"\s*(?P<zone>[Zz]|UTC|GMT|(?P<sign>[+-])(?P<hours>0\d|1[0-4])(?::?(?P<minutes>[0-5]\d))?)?$"
)
_REMEDY = "write ISO 8601, as in 2024-01-31T08:30:00Z, or Unix seconds"


class Times(NamedTuple):
    """`seconds` int64 [N], null where the time is; `unit` what the values were; `num_cut` how many had fractions."""

    seconds: pa.Array
    unit: str
    num_cut: int


def is_time(kind: pa.DataType) -> bool:
    """Return whether values of `kind` can be times, as far as the type says."""
    types, kind = pa.types, plain_type(kind)
    return (
        types.is_null(kind)
        or types.is_timestamp(kind)
        or types.is_date(kind)
        or types.is_integer(kind)
        or types.is_floating(kind)
        or types.is_decimal(kind)
        or types.is_string(kind)
        or is_bytes(kind)
    )


def seconds(values: pa.Array) -> Times:
    """Return flat values as Unix seconds.

    Raises:
        RowError: a value is no time, lies outside of the years 1 to 9999, or is in another unit than those before it.
        ValueError: the type cannot be a time.
    """
    values = plain(values)
    if not is_time(values.type):
        raise ValueError(f"its type {values.type} cannot hold times; {_REMEDY}")
    types, kind = pa.types, values.type
    if types.is_null(kind):
        return Times(values.cast(pa.int64()), "seconds", 0)
    if is_bytes(kind):
        values = text(values)
    missing = values.is_null().to_numpy(zero_copy_only=False)
    if types.is_timestamp(kind):
        return _counted(values.cast(pa.int64()), missing, _PER_SECOND[kind.unit], str(kind))
    if types.is_date32(kind):
        return _counted(_product(values.cast(pa.int32()), _DAY_SECONDS), missing, 1, str(kind))
    if types.is_date64(kind):
        return _counted(values.cast(pa.int64()), missing, 1000, str(kind))
    return _texts(values, missing) if types.is_string(values.type) else _numbers(values, missing)


def _product(values: pa.Array, factor: int) -> pa.Array:
    return pc.multiply(values.cast(pa.int64()), factor)


def _counted(values: pa.Array, missing: np.ndarray, per_second: int, unit: str) -> Times:
    """Return counts of a known unit as seconds."""
    counts = values.fill_null(0).to_numpy(zero_copy_only=False)
    found, rest = np.divmod(counts, per_second)
    outside = (found < _FIRST) | (found >= _END)
    if outside.any():
        row = int(np.argmax(outside))
        raise RowError(row, f"{counts[row]} in {unit} lies outside of the years 1 to 9999; {_REMEDY}")
    return Times(pa.array(found, mask=missing), unit, int(np.count_nonzero(rest)))


def _numbers(values: pa.Array, missing: np.ndarray) -> Times:
    """Return numbers, whole or not, as seconds; the unit follows from their size."""
    if pa.types.is_decimal(values.type):
        whole = pc.floor(values)
        fractions = pc.not_equal(whole, values).fill_null(False).to_numpy(zero_copy_only=False)  # noqa: FBT003
        numbers = whole.cast(pa.float64(), safe=False).fill_null(0).to_numpy(zero_copy_only=False)
    else:
        if pa.types.is_integer(values.type):
            values = cast(values, pa.int64(), lambda value: f"{value} is no time; {_REMEDY}")
        numbers = values.fill_null(0).to_numpy(zero_copy_only=False)
        fractions = np.zeros(len(numbers), bool)
    if numbers.dtype.kind == "f":
        missing = missing | np.isnan(numbers)
        numbers = np.where(missing, 0, numbers.astype(np.float64))
        fractions = fractions | (np.floor(numbers) != numbers)
    units = np.full(len(numbers), -1)
    for place, unit in enumerate(_PER_SECOND.values()):
        low, high = (_END * (unit // 1000), _LATEST_SECOND * unit) if place else (_FIRST, _END)
        units[(numbers >= low) & (numbers < high) & (units < 0)] = place
    known = np.flatnonzero(~missing)
    if (units[known] < 0).any():
        row = int(known[np.argmax(units[known] < 0)])
        raise RowError(
            row,
            f"{values[row].as_py()} is no time: neither Unix seconds of the years 1 to 9999, nor milliseconds, "
            f"microseconds or nanoseconds of 1978 to 2262; {_REMEDY}",
        )
    place = int(units[known[0]]) if len(known) else 0
    if (units[known] != place).any():
        row = int(known[np.argmax(units[known] != place)])
        raise RowError(
            row,
            f"{values[row].as_py()} counts {UNITS[units[row]]}, and rows before it {UNITS[place]}; write one unit",
        )
    per_second = list(_PER_SECOND.values())[place]
    found = np.where(missing, 0, np.floor_divide(numbers, per_second)).astype(np.int64)
    cut = (fractions | (np.mod(numbers, per_second) != 0)) & ~missing
    return Times(pa.array(found, mask=missing), UNITS[place], int(cut.sum()))


def _texts(values: pa.Array, missing: np.ndarray) -> Times:
    is_number = pc.and_not(pc.match_substring_regex(values, _NUMBER), pc.match_substring_regex(values, _COMPACT))
    is_number = is_number.fill_null(False).to_numpy(zero_copy_only=False)  # noqa: FBT003
    if is_number[~missing].any():
        if not is_number[~missing].all():
            first = int(np.argmax(~missing))
            row = int(np.argmax((is_number != is_number[first]) & ~missing))
            raise RowError(
                row, f"{shown(values[row].as_py())} is of another form than {shown(values[first].as_py())}; {_REMEDY}"
            )
        kind = pa.float64() if pc.any(pc.match_substring(values, ".")).as_py() else pa.int64()
        return _numbers(cast(values, kind, lambda value: f"{shown(value)} is no time; {_REMEDY}"), missing)
    spelt = pc.replace_substring_regex(pc.utf8_trim_whitespace(values), r"^(\d{4})(\d{2})(\d{2})", r"\1-\2-\3")
    spelt = pc.replace_substring_regex(spelt, r"^(\d{4}-\d{2}-\d{2})[Tt ]?(\d{2})(\d{2})(\d{2})", r"\1 \2:\3:\4")
    parts = pc.extract_regex(spelt, _ISO)
    refused = (parts.is_null().to_numpy(zero_copy_only=False)) & ~missing
    if refused.any():
        row = int(np.argmax(refused))
        raise RowError(row, f"{shown(values[row].as_py())} is no time; {_REMEDY}")
    clock = pc.if_else(pc.equal(parts.field("clock"), ""), "00:00", parts.field("clock"))
    local = pc.if_else(parts.is_valid(), pc.binary_join_element_wise(parts.field("day"), clock, " "), None)
    found = cast(local, pa.timestamp("s"), lambda value: f"{shown(value)} is no time; {_REMEDY}").cast(pa.int64())
    found = found.fill_null(0).to_numpy(zero_copy_only=False) - _offsets(parts)
    outside = ((found < _FIRST) | (found >= _END)) & ~missing
    if outside.any():
        row = int(np.argmax(outside))
        raise RowError(row, f"{shown(values[row].as_py())} lies outside of the years 1 to 9999; {_REMEDY}")
    cut = pc.sum(pc.match_substring_regex(parts.field("fraction"), "[1-9]")).as_py() or 0
    return Times(pa.array(found, mask=missing), "text", cut)


def _offsets(parts: pa.StructArray) -> np.ndarray:
    """Return how many seconds each text's zone is ahead of UTC."""
    hours, minutes = (
        pc.if_else(pc.equal(parts.field(name), ""), "0", parts.field(name)).cast(pa.int64()).fill_null(0)
        for name in ("hours", "minutes")
    )
    ahead = pc.add(pc.multiply(hours, 3600), pc.multiply(minutes, 60)).to_numpy(zero_copy_only=False)
    west = pc.equal(parts.field("sign"), "-").fill_null(False).to_numpy(zero_copy_only=False)  # noqa: FBT003
    return np.where(west, -ahead, ahead)
