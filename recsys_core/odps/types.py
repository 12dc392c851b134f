"""MaxCompute's column types and Arrow's, both ways.

| MaxCompute | Arrow |     | MaxCompute | Arrow |
|---|---|---|---|---|
| tinyint, smallint, int, bigint | int8 … int64 | | string, char(n), varchar(n), json | string |
| float, double | float32, float64 | | binary | binary |
| boolean | bool | | date | date32 |
| decimal(p,s) | decimal128(p, s) | | datetime | timestamp[ms] |
| array<t>, map<k,v>, struct<n:t> | list, map, struct | | timestamp, timestamp_ntz | timestamp[ns] |
"""

import re

import pyarrow as pa

_PLAIN = {
    "tinyint": pa.int8(),
    "smallint": pa.int16(),
    "int": pa.int32(),
    "bigint": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "string": pa.string(),
    "json": pa.string(),
    "binary": pa.binary(),
    "boolean": pa.bool_(),
    "date": pa.date32(),
    "datetime": pa.timestamp("ms"),
    "timestamp": pa.timestamp("ns"),
    "timestamp_ntz": pa.timestamp("ns"),
    "decimal": pa.decimal128(38, 18),
}
_NAMES = {kind: name for name, kind in reversed(_PLAIN.items())}
# What is written as a wider or plainer type than it has.
_WIDENED = {
    pa.uint8(): pa.int16(),
    pa.uint16(): pa.int32(),
    pa.uint32(): pa.int64(),
    pa.float16(): pa.float32(),
    pa.large_string(): pa.string(),
    pa.string_view(): pa.string(),
    pa.large_binary(): pa.binary(),
    pa.date64(): pa.date32(),
}
_TOKEN = re.compile(r"\s*([A-Za-z_]\w*|`[^`]+`|\d+|[<>(),:])")


def to_arrow(text: str) -> pa.DataType:
    """Return the Arrow type of the MaxCompute type `text`, such as `array<struct<id:bigint,tags:array<string>>>`.

    Names of a struct's fields become lower case, as MaxCompute has them.

    Raises:
        ValueError: no such type, or a malformed one.
    """
    tokens = _TOKEN.findall(text)
    if "".join(tokens) != re.sub(r"\s+", "", text):
        raise ValueError(f"{text!r} is not a MaxCompute type")
    try:
        kind = _parsed(tokens)
    except (IndexError, KeyError, StopIteration, ValueError, pa.ArrowException) as error:
        raise ValueError(f"{text!r} is not a MaxCompute type that Arrow can hold ({error})") from None
    if tokens:
        raise ValueError(f"{text!r} is not a MaxCompute type: {''.join(tokens)!r} is left over")
    return kind


def from_arrow(kind: pa.DataType) -> str:
    """Return the MaxCompute type that holds values of `kind`; see `plain` for what becomes wider.

    Raises:
        ValueError: there is none.
    """
    kind = plain(kind)
    if kind in _NAMES:
        return _NAMES[kind]
    if pa.types.is_decimal128(kind):
        return f"decimal({kind.precision},{kind.scale})"
    if pa.types.is_map(kind):
        return f"map<{from_arrow(kind.key_type)},{from_arrow(kind.item_type)}>"
    if pa.types.is_list(kind):
        return f"array<{from_arrow(kind.value_type)}>"
    assert pa.types.is_struct(kind)
    return f"struct<{','.join(f'{field.name}:{from_arrow(field.type)}' for field in kind)}>"


def plain(kind: pa.DataType) -> pa.DataType:
    """Return the Arrow type that a column of `kind` has once it is a column of a MaxCompute table.

    Fixed-size and large lists become lists, dictionaries their values, unsigned integers the next wider signed ones,
    times of any unit and zone `timestamp[ns]` in UTC (`timestamp[ms]` without a zone is `datetime`).

    Raises:
        ValueError: MaxCompute has no type for such values.
    """
    if kind in _NAMES or (pa.types.is_decimal128(kind) and kind.scale >= 0):
        return kind
    if kind in _WIDENED:
        return _WIDENED[kind]
    if pa.types.is_timestamp(kind):
        return pa.timestamp("ns")
    if pa.types.is_dictionary(kind):
        return plain(kind.value_type)
    if pa.types.is_nested(kind):
        return _plain_nested(kind)
    raise ValueError(f"MaxCompute has no type for Arrow's {kind}; cast the column to one that it has")


def _plain_nested(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_map(kind):
        return pa.map_(plain(kind.key_type), plain(kind.item_type))
    if pa.types.is_struct(kind):
        if capitals := [field.name for field in kind if field.name != field.name.lower()]:
            raise ValueError(
                f"the struct's field {capitals[0]!r} has capitals, which MaxCompute does not keep; rename it"
            )
        return pa.struct([(field.name, plain(field.type)) for field in kind])
    if pa.types.is_union(kind):
        raise ValueError(f"MaxCompute has no type for Arrow's {kind}; cast the column to one that it has")
    return pa.list_(plain(kind.value_type))


def _parsed(tokens: list[str]) -> pa.DataType:
    """Take one type off the front of `tokens`."""
    name = tokens.pop(0).lower()
    if name == "array":
        return pa.list_(_inside(tokens, 1)[0])
    if name == "map":
        return pa.map_(*_inside(tokens, 2))
    if name == "struct":
        return _struct(tokens)
    if tokens and tokens[0] == "(":
        end = tokens.index(")")
        numbers = [int(digits) for digits in tokens[1:end:2]]
        del tokens[: end + 1]
        if name == "decimal":
            return pa.decimal128(*numbers)
        if name not in ("char", "varchar") or len(numbers) != 1:
            raise ValueError(f"{name} takes no numbers in parentheses")
        return pa.string()
    return _PLAIN[name]


def _inside(tokens: list[str], number: int) -> list[pa.DataType]:
    _expect(tokens, "<")
    kinds = [_parsed(tokens)]
    while len(kinds) < number:
        _expect(tokens, ",")
        kinds.append(_parsed(tokens))
    _expect(tokens, ">")
    return kinds


def _struct(tokens: list[str]) -> pa.DataType:
    _expect(tokens, "<")
    fields = []
    while True:
        name = tokens.pop(0).strip("`").lower()
        _expect(tokens, ":")
        fields.append((name, _parsed(tokens)))
        if tokens.pop(0) == ">":
            return pa.struct(fields)


def _expect(tokens: list[str], wanted: str) -> None:
    if not tokens or tokens[0] != wanted:
        raise ValueError(f"{tokens[0] if tokens else 'nothing'!r} stands where {wanted!r} should")
    tokens.pop(0)
