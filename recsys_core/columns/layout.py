"""One layout for values that files hold in several: texts as `string`, dictionaries as their values, and such."""

import functools
from collections.abc import Callable, Sequence
from typing import NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

_MAX_SHOWN = 80


class RowError(ValueError):
    """A row is refused, the one of number `row` (from 0) among those that were given."""

    def __init__(self, row: int, reason: str, among: str = "") -> None:
        """`among` says of what the row is one, if not of what the caller gave."""
        super().__init__(f"row {row}{among}: {reason}")
        self.row, self.reason = row, reason


def is_list(kind: pa.DataType) -> bool:
    """Return whether a column of this type holds lists, of whatever kind."""
    types = pa.types
    return (
        types.is_list(kind)
        or types.is_large_list(kind)
        or types.is_fixed_size_list(kind)
        or types.is_list_view(kind)
        or types.is_large_list_view(kind)
    )


def is_bytes(kind: pa.DataType) -> bool:
    """Return whether a column of this type holds bytes, of whatever kind."""
    types = pa.types
    return (
        types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_binary_view(kind)
        or types.is_fixed_size_binary(kind)
    )


def plain(values: pa.Array) -> pa.Array:
    """Return the same values, in lists too: texts as `string`, bytes as `binary`, dictionaries decoded."""
    kind = values.type
    if isinstance(values, pa.ExtensionArray):
        return plain(values.storage)
    if isinstance(values, pa.DictionaryArray):
        return plain(values.dictionary_decode())
    if pa.types.is_run_end_encoded(kind):
        return plain(pc.run_end_decode(values))
    if plain_type(kind) != kind and not is_list(kind):
        return values.cast(plain_type(kind))
    if is_list(kind) and plain_type(kind) != kind:
        nulls = values.is_null()
        lengths = pc.fill_null(pc.list_value_length(values), 0).to_numpy(zero_copy_only=False)
        offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
        return pa.ListArray.from_arrays(offsets, plain(pc.list_flatten(values)), mask=nulls)
    return values


@functools.lru_cache(256)
def plain_type(kind: pa.DataType) -> pa.DataType:
    """Return the type that `plain` gives to values of `kind`."""
    if isinstance(kind, pa.BaseExtensionType):
        return plain_type(kind.storage_type)
    if isinstance(kind, (pa.DictionaryType, pa.RunEndEncodedType)):
        return plain_type(kind.value_type)
    if is_list(kind):
        inner = plain_type(kind.value_type)
        is_view = pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind)
        return pa.list_(inner) if is_view or inner != kind.value_type else kind
    return _plain_value(kind)


def _plain_value(kind: pa.DataType) -> pa.DataType:
    types = pa.types
    if types.is_large_string(kind) or types.is_string_view(kind):
        return pa.string()
    if types.is_large_binary(kind) or types.is_binary_view(kind):
        return pa.binary()
    if types.is_decimal32(kind) or types.is_decimal64(kind):
        # Of the narrow ones Arrow casts and computes little.
        return pa.decimal128(38, kind.scale)
    return kind


def united(kind: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """Return the type that holds the values of both exactly and means the same to features; None: there is none.

    Texts are texts however they are laid out, whole numbers are whole numbers, and a column of nulls may be anything.
    """
    kind, other = plain_type(kind), plain_type(other)
    if kind == other or pa.types.is_null(other):
        return kind
    if pa.types.is_null(kind):
        return other
    if pa.types.is_integer(kind) and pa.types.is_integer(other):
        unsigned = pa.uint64() in (kind, other)
        return pa.int64() if not unsigned else None
    if is_list(kind) and is_list(other):
        inner = united(kind.value_type, other.value_type)
        return None if inner is None else pa.list_(inner)
    return None


def alike(kind: pa.DataType, other: pa.DataType) -> bool:
    """Return whether features make the same of equal values; a column beside nulls is often double for being int64."""
    kind, other = plain_type(kind), plain_type(other)
    if is_list(kind) and is_list(other):
        return alike(kind.value_type, other.value_type)
    return united(kind, other) is not None or (is_number(kind) and is_number(other))


def is_number(kind: pa.DataType) -> bool:
    """Return whether values of a type are numbers; booleans are none."""
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)


def digest(table: pa.Table) -> str:
    """Return the xxh3-128 of the values of all columns, by row; nothing of how they are laid out counts."""
    content = xxhash.xxh3_128()
    for name, column in zip(table.column_names, table.columns, strict=True):
        texts = by_chunk(lambda chunk: plain(chunk).cast(pa.large_string()), column).combine_chunks()
        lengths = pc.fill_null(pc.binary_length(texts), -1)
        content.update(name.encode())
        content.update(lengths.to_numpy().tobytes())
        _, ends, characters = pc.fill_null(texts, "").buffers()
        content.update(characters.slice(0, int(np.frombuffer(ends, np.int64)[len(texts)])) if characters else b"")
    return content.hexdigest()


def by_chunk(
    convert: Callable[[pa.Array], pa.Array], column: pa.ChunkedArray, kind: pa.DataType | None = None
) -> pa.ChunkedArray:
    """Convert the chunks of a column one by one; a refused row is counted over all of them."""
    made: list[pa.Array] = []
    start = 0
    for chunk in column.chunks or [pa.array([], column.type)]:
        try:
            made.append(convert(chunk))
        except RowError as error:
            raise RowError(start + error.row, error.reason) from None
        start += len(chunk)
    return pa.chunked_array(made, kind)


def text(values: pa.Array) -> pa.Array:
    """Return bytes as the texts that they are.

    Raises:
        RowError: bytes that are no UTF-8.
    """
    return cast(values, pa.string(), lambda value: f"{shown(value)} is no text in UTF-8; write the column as text")


def require_text(values: pa.Array) -> pa.Array:
    """Return `values`, in their plain layout, unless there are texts among them whose bytes are no text.

    Arrow takes such bytes from a file without a look at them.

    Raises:
        RowError: bytes that are no UTF-8.
    """
    if is_list(values.type):
        try:
            require_text(pc.list_flatten(values))
        except RowError as error:
            lengths = pc.fill_null(pc.list_value_length(values), 0).to_numpy(zero_copy_only=False)
            row = int(np.searchsorted(np.cumsum(lengths), error.row, side="right"))
            raise RowError(row, error.reason) from None
    elif pa.types.is_string(values.type):
        try:
            values.validate(full=True)
        except pa.ArrowInvalid:
            text(values.cast(pa.binary()))
    return values


def shown(value: object) -> str:
    """Return a value of whatever size and signs in a few of one line."""
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"


def cast(values: pa.Array, kind: pa.DataType, reason: Callable[[object], str]) -> pa.Array:
    """Cast `values`; what cannot be is refused with its row, and with what `reason` says of it.

    Raises:
        RowError: a value does not fit `kind`.
    """
    try:
        return values.cast(kind)
    except pa.ArrowInvalid:
        _refuse_first(values, kind, reason)


def _refuse_first(values: pa.Array, kind: pa.DataType, reason: Callable[[object], str]) -> NoReturn:
    first, last = 0, len(values)
    while last - first > 1:
        middle = (first + last) // 2
        try:
            values.slice(first, middle - first).cast(kind)
            first = middle
        except pa.ArrowInvalid:
            last = middle
    raise RowError(first, reason(values[first].as_py())) from None


def refuse_twice(place: object, names: Sequence[str]) -> None:
    """Refuse columns that share a name, of which a stage would read one and leave out the other.

    Raises:
        ValueError: names the file and the columns.
    """
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        named = ", ".join(map(repr, twice))
        raise ValueError(
            f"{place}: the column {named} is there more than once, and which of them is meant cannot be known; "
            "rename or drop one"
        )
