"""Types of columns, by names that an engine's saved schema holds, and columns of such a type made of loose values.

`int64`, `float32`, `float64`, `string`, `bool`, `date32`, `timestamp[UNIT]`, `timestamp[UNIT,ZONE]`, `list<TYPE>` and
`map<KEY,TYPE>`. What cannot change a feature is no part of a name: how wide an integer is, or how a list is laid out.
"""

import datetime
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from recsys_core.features import base

_NAMED = {
    "int64": pa.int64(),
    "float32": pa.float32(),
    "float64": pa.float64(),
    "string": pa.string(),
    "bool": pa.bool_(),
    "date32": pa.date32(),
}
_SCALARS: tuple[tuple[Callable[[pa.DataType], bool], str], ...] = (
    (pa.types.is_boolean, "bool"),
    (pa.types.is_integer, "int64"),
    # 0.7 as a float32 lies below 0.7 as a float64: the two are in different buckets of boundaries [0.7].
    (pa.types.is_float32, "float32"),
    (pa.types.is_floating, "float64"),
    (pa.types.is_decimal, "float64"),
    (pa.types.is_date, "date32"),
)
# The first integer that float64 cannot distinguish from its neighbour.
_FIRST_INEXACT = float(1 << 53)


def name_of(kind: pa.DataType) -> str:
    """Name the type that values of `kind` have to be given in for features to make the same of them."""
    types = pa.types
    if base.is_list(kind):
        return f"list<{name_of(kind.value_type)}>"
    if types.is_map(kind):
        return f"map<{name_of(kind.key_type)},{name_of(kind.item_type)}>"
    if isinstance(kind, pa.DictionaryType):
        return name_of(kind.value_type)
    if types.is_timestamp(kind):
        return f"timestamp[{kind.unit}{f',{kind.tz}' if kind.tz else ''}]"
    return next((name for is_one, name in _SCALARS if is_one(kind)), "string")


@functools.lru_cache(maxsize=1024)
def parse(name: str) -> pa.DataType:
    """Return the type that `name_of` named."""
    if name.startswith("list<"):
        return pa.list_(parse(name[5:-1]))
    if name.startswith("map<"):
        key, _, value = name[4:-1].partition(",")
        return pa.map_(parse(key), parse(value))
    if name.startswith("timestamp["):
        unit, _, zone = name[10:-1].partition(",")
        return pa.timestamp(unit, zone or None)
    return _NAMED[name]


def column(values: Iterable[Any], kind: pa.DataType) -> pa.Array:
    """Return loose values (None or NaN: unknown) as a column of type `kind`.

    Times may be ISO texts, maps mappings, integers texts of their digits.

    Raises:
        ValueError: a value does not fit, or is an integer that has lost digits on its way here.
    """
    try:
        _refuse_texts(values, kind)
        leaf = _leaf(kind)
        if pa.types.is_integer(leaf):
            return _integers(pa.array(values, from_pandas=True), kind)
        if pa.types.is_floating(leaf) and any(isinstance(value, bool | np.bool_) for value in _flat(values)):
            raise ValueError("true and false are no numbers")
        if pa.types.is_map(kind):
            values = [list(value.items()) if isinstance(value, Mapping) else value for value in values]
        elif pa.types.is_temporal(kind):
            read = datetime.date.fromisoformat if pa.types.is_date(kind) else datetime.datetime.fromisoformat
            values = [read(value) if isinstance(value, str) else value for value in values]
            if numbers := [value for value in values if isinstance(value, int | float) and value == value]:  # noqa: PLR0124
                raise ValueError(f"{numbers[0]} is a number, and no time")
        return pa.array(values, type=kind, from_pandas=True)
    except (ValueError, TypeError, OverflowError, pa.ArrowNotImplementedError) as error:
        raise ValueError(str(error)) from None


def _refuse_texts(values: Iterable[Any], kind: pa.DataType) -> None:
    """Refuse a text where a list belongs: Arrow takes it for the list of its characters."""
    if not pa.types.is_list(kind):
        return
    for value in values:
        if isinstance(value, str):
            raise TypeError("a text, and no list")
        if isinstance(value, list | tuple | np.ndarray):
            _refuse_texts(value, kind.value_type)


def _leaf(kind: pa.DataType) -> pa.DataType:
    while pa.types.is_list(kind):
        kind = kind.value_type
    return kind


def _flat(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, list | tuple | np.ndarray):
            yield from _flat(value)
        else:
            yield value


def _integers(given: pa.Array, kind: pa.DataType) -> pa.Array:
    """Take floats without a fraction too (pandas makes them of integers beside a null), and texts of digits."""
    if pa.types.is_list(kind) and pa.types.is_list(given.type):
        values = _integers(given.values, kind.value_type)
        return pa.ListArray.from_arrays(given.offsets, values, mask=given.is_null())
    if pa.types.is_boolean(given.type):
        raise ValueError("true and false are no integers")
    if pa.types.is_temporal(given.type):
        raise ValueError(f"a {given.type} is a time, and no integer")
    if pa.types.is_floating(given.type):
        numbers = given.drop_null().to_numpy(zero_copy_only=False)
        if (np.abs(numbers) >= _FIRST_INEXACT).any():
            raise ValueError(
                "an integer beyond 2**53 came as a floating number, so its last digits are lost; "
                "send it as a text of its digits, or rows that are null here in a request of their own"
            )
    return given.cast(kind)
