"""Types of CSV columns, found out from all of their values: the type must hold each one as it is written.

Arrow infers the type of a block of lines. A column has the type that holds those of all blocks; where there is none, or
a number would not be written again as it stands there (`007`, `0x1F`, 20 digits), it is text.
"""

import re

import pyarrow as pa
import pyarrow.compute as pc

Kinds = dict[str, pa.DataType]

_DECIMAL = re.compile(r"decimal(?:128)?\((\d+), ?(\d+)\)")
_ZONED_TIME = re.compile(r"timestamp\[(s|ms|us|ns), ?(?:tz=)?([A-Za-z0-9_/+:-]+)\]")
# Leading zeros and hexadecimal digits, and whole numbers of so many digits that a double may lose the last ones.
_ZEROS = r"^\s*[+-]?0[0-9xX]"
_LONGEST = 16
_LONG = r"^\s*[+-]?[0-9]{16,}\s*$"
_FIRST_INEXACT = 1 << 53
_TIMES = (pa.date32(), pa.timestamp("s"), pa.timestamp("ns"))
_ZONED = (pa.timestamp("s", "UTC"), pa.timestamp("ns", "UTC"))


def named(name: str, text: str) -> pa.DataType:
    """Return the Arrow type that `text` names for the column `name`.

    Raises:
        ValueError: there is none.
    """
    try:
        if match := _DECIMAL.fullmatch(text):
            return pa.decimal128(*map(int, match.groups()))
        if match := _ZONED_TIME.fullmatch(text):
            return pa.timestamp(match[1], match[2])
        return pa.type_for_alias(text)
    except (ValueError, pa.ArrowException):
        raise ValueError(f"types: {name}: {text!r} is no type that Arrow knows by name") from None


def doubtful(text: bytes, delimiter: str, quote: str | None) -> bool:
    """Return whether a value of the lines may look like a number and be written otherwise; quick, may be wrong so."""
    before = dict.fromkeys(("\n", "\t", " ", "+", "-", delimiter, quote or "\n"), ",")
    # Zeros, other digits, what stands before a value, and all else.
    spelt = (b"\n" + text).translate(_table(before | dict.fromkeys("123456789xX", "1") | {"0": "0"}))
    if b",00" in spelt or b",01" in spelt:
        return True
    spelt = (b"\n" + text).translate(_table(before | dict.fromkeys("0123456789", "0")))
    return b"," + b"0" * _LONGEST in spelt


def _table(signs: dict[str, str]) -> bytes:
    made = bytearray(b"." * 256)
    for sign, other in signs.items():
        made[ord(sign)] = ord(other)
    return bytes(made)


def corrected(kinds: Kinds, texts: pa.Table) -> Kinds:
    """Return the types of a block, those of numbers corrected by how they are written."""
    found = dict(kinds)
    for name in texts.column_names:
        pattern = _ZEROS if pa.types.is_integer(kinds[name]) else f"{_ZEROS}|{_LONG}"
        if pc.any(pc.match_substring_regex(texts.column(name), pattern)).as_py():
            found[name] = pa.string()
    return found


def numbers(kinds: Kinds) -> list[str]:
    """Name the columns whose types are those of numbers."""
    return [name for name, kind in kinds.items() if pa.types.is_integer(kind) or pa.types.is_floating(kind)]


def narrowed(table: pa.Table) -> Kinds:
    """Return the types of a block; integers that no double holds exactly have one of their own, `uint64`."""
    kinds = dict(zip(table.column_names, table.schema.types, strict=True))
    for name, kind in kinds.items():
        if pa.types.is_int64(kind):
            ends = pc.min_max(table.column(name)).as_py()
            if max(-(ends["min"] or 0), ends["max"] or 0) >= _FIRST_INEXACT:
                kinds[name] = pa.uint64()
    return kinds


def joined(kinds: Kinds, others: Kinds) -> Kinds:
    """Return the types that hold the values of two blocks."""
    if not kinds:
        return others
    return {name: joined_pair(kind, others[name]) for name, kind in kinds.items()}


def joined_pair(kind: pa.DataType, other: pa.DataType) -> pa.DataType:
    """Return the type that holds values of both."""
    if kind == other or pa.types.is_null(other):
        return kind
    if pa.types.is_null(kind):
        return other
    pair = {kind, other}
    if pair == {pa.int64(), pa.uint64()}:
        return pa.uint64()
    if pair == {pa.int64(), pa.float64()}:
        return pa.float64()
    for family in (_TIMES, _ZONED):
        if pair <= set(family):
            return family[max(family.index(kind), family.index(other))]
    return pa.string()


def settled(kinds: Kinds) -> Kinds:
    """Return the types to read with: what is empty throughout may hold anything, and text takes it all."""
    return {
        name: pa.string() if pa.types.is_null(kind) else pa.int64() if kind == pa.uint64() else kind
        for name, kind in kinds.items()
    }
