"""What a request asks for: its columns and parameters, read from a body of limited size and checked one by one.

A body is what MLflow's clients send: JSON of `dataframe_records`, `dataframe_split`, `instances` or `inputs`, and
`params`; or a CSV or Parquet file of columns. Every error names the column, the parameter or the key, and shows no more
of what was sent.
"""

import csv
import io
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

MAX_BODY_BYTES = 32 << 20
MAX_ROWS = 10_000
MAX_COLUMNS = 10_000
# Rows of a request times the items that each gets.
MAX_ANSWERS = 1_000_000
DEFAULT_K = 20
EXCLUDE = "exclude"
_ROWS = ("dataframe_records", "dataframe_split", "instances", "inputs")
_SHOWN = 80
_MAX_DIGITS = 1_000
# Bytes of a value of each of Parquet's physical types but for those that say their own length.
_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 12, "FLOAT": 4, "DOUBLE": 8, "BYTE_ARRAY": 4}
_KINDS = {
    dict: "an object",
    list: "a list",
    str: "a text",
    bool: "true or false",
    int: "a whole number",
    float: "a number with a fraction",
    type(None): "null",
}

Columns = dict[str, list[Any]]


class Params(NamedTuple):
    """How many items a row gets, which ones no row gets, and whether the row's history is left out of its items.

    The latter is the bundle's own where the request does not say.
    """

    k: int = DEFAULT_K
    exclude: list[Any] = []  # noqa: RUF012 - nothing changes it
    mask_seen: bool | None = None


def params(given: Any) -> Params:
    """Check the parameters of a request.

    Raises:
        ValueError: one is unknown, or not of its type or range; names it.
    """
    _must_be(dict, given, "params", f"an object of {', '.join(Params._fields)}")
    if unknown := [name for name in given if name not in Params._fields]:
        raise ValueError(f"params has no {shown(unknown[0])}; there are {', '.join(Params._fields)}")
    asked = Params(**given)
    _must_be(int, asked.k, "k", "a whole number from 1 on")
    if asked.k < 1:
        raise ValueError(f"k is {shown(asked.k)}; ask for at least one item")
    _must_be(list, asked.exclude, EXCLUDE, "a list of item ids")
    if "mask_seen" in given:
        _must_be(bool, asked.mask_seen, "mask_seen", "true or false")
    return asked


def no_params(given: Any) -> None:
    """Refuse parameters where there are none.

    Raises:
        ValueError: there is one; names it.
    """
    _must_be(dict, given, "params", "an empty object")
    if given:
        raise ValueError(f"params has {shown(next(iter(given)))}, and this model takes none; leave params out")


def limit(num_rows: int, k: int) -> None:
    """Refuse more than can be answered at once.

    Raises:
        ValueError: too many rows, or too many items for so many rows.
    """
    if num_rows > MAX_ROWS:
        raise ValueError(f"{num_rows:,} rows in one request; send at most {MAX_ROWS:,}")
    if num_rows * k > MAX_ANSWERS:
        raise ValueError(f"k is {k:,} for {num_rows:,} rows; rows times k may be {MAX_ANSWERS:,} at most")


def shown(value: Any) -> str:
    """Return a value for a message, no longer than a line takes."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def body(data: bytes, content_type: str) -> tuple[Columns, Any]:
    """Return the columns and the unchecked parameters of a request's body.

    Raises:
        ValueError: it is not what its type says, has no rows, or not the same columns in every row.
    """
    kind, _, options = content_type.partition(";")
    read = _READERS.get(kind.strip().lower())
    if read is None:
        raise ValueError(f"content type {shown(content_type)}; send one of {', '.join(_READERS)}")
    if (charset := options.strip().lower()) not in ("", "charset=utf-8"):
        raise ValueError(f"content type with {shown(charset)}; send UTF-8")
    columns, asked = read(data)
    if not columns or not len(next(iter(columns.values()))):
        raise ValueError("no rows; send one at least")
    return columns, asked


def json_object(data: bytes, wanted: str) -> dict[str, Any]:
    """Return a body that is a JSON object; `wanted` says which.

    Raises:
        ValueError: it is no JSON, has NaN or a key twice, or is no object.
    """
    try:
        sent = json.loads(data.decode(), parse_int=_integer, parse_constant=_refuse_constant, object_pairs_hook=_once)
    except RecursionError:
        raise ValueError("the body is JSON that is nested too deeply") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"the body is no UTF-8 (byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"the body is no JSON: {error}") from None
    _must_be(dict, sent, "the body", wanted)
    return sent


def _json(data: bytes) -> tuple[Columns, Any]:
    sent = json_object(data, f"an object with one of {', '.join(_ROWS)}, and params")
    if unknown := [key for key in sent if key not in (*_ROWS, "params")]:
        raise ValueError(f"the body has no key {shown(unknown[0])}; send one of {', '.join(_ROWS)}, and params")
    if len(keys := [key for key in _ROWS if key in sent]) != 1:
        found = " and ".join(keys) or "none"
        raise ValueError(f"the body has {found} of {', '.join(_ROWS)}; send exactly one")
    rows = sent[keys[0]]
    if keys[0] == "dataframe_split":
        columns = _split(rows)
    elif keys[0] == "inputs" and isinstance(rows, dict):
        columns = _same_length(rows)
    else:
        columns = _records(rows, keys[0])
    return columns, {} if sent.get("params") is None else sent["params"]


def _records(rows: Any, key: str) -> Columns:
    _must_be(list, rows, key, "a list of rows")
    limit(len(rows), 1)
    columns: Columns = {}
    for number, row in enumerate(rows):
        _must_be(dict, row, f"row {number}", "an object of columns")
        if number == 0:
            columns = {name: [] for name in row}
        if missing := [name for name in columns if name not in row]:
            raise ValueError(f"row {number}: column {shown(missing[0])} is missing; give null where it is unknown")
        if extra := [name for name in row if name not in columns]:
            raise ValueError(
                f"row {number}: column {shown(extra[0])} is not in the rows before; give all rows the same"
            )
        for name, values in columns.items():
            values.append(row[name])
    return columns


def _split(sent: Any) -> Columns:
    if (
        not isinstance(sent, dict)
        or not sent.keys() >= {"columns", "data"}
        or sent.keys() - {"columns", "data", "index"}
    ):
        raise ValueError("dataframe_split is no object of columns and data (and index)")
    names, rows = sent["columns"], sent["data"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("dataframe_split.columns is no list of names")
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"dataframe_split.columns has {shown(twice[0])} more than once")
    _must_be(list, rows, "dataframe_split.data", "a list of rows")
    limit(len(rows), 1)
    for number, row in enumerate(rows):
        if not isinstance(row, list) or len(row) != len(names):
            raise ValueError(f"dataframe_split.data, row {number}: no list of {len(names)} values, one for each column")
    return {name: [row[place] for row in rows] for place, name in enumerate(names)}


def _same_length(columns: dict[str, Any]) -> Columns:
    lengths: dict[int, str] = {}
    for name, values in columns.items():
        _must_be(list, values, f"column {shown(name)}", "a list with a value for each row")
        lengths.setdefault(len(values), name)
    if len(lengths) > 1:
        (a, left), (b, right), *_ = lengths.items()
        raise ValueError(f"inputs: column {shown(left)} has {a} rows and column {shown(right)} {b}")
    return columns


def _csv(data: bytes) -> tuple[Columns, Any]:
    try:
        text = data.decode("utf-8-sig")
        _refuse_ragged(text)
        # Only an empty field is unknown: NA and None are texts as good as any.
        frame = pd.read_csv(io.StringIO(text), nrows=MAX_ROWS + 1, keep_default_na=False, na_values=[""])
    except (ValueError, csv.Error, pd.errors.ParserError) as error:
        raise ValueError(f"the body is no CSV of columns: {first_line(error)}") from None
    return {str(name): frame[name].tolist() for name in frame}, {}


def _refuse_ragged(text: str) -> None:
    """Refuse what pandas reads another way than it is written: it renames columns, moves values and adds nulls."""
    rows = csv.reader(io.StringIO(text, newline=""))
    names = next(filter(None, rows), [])
    _check_names(names)
    for number, row in enumerate(filter(None, itertools.islice(rows, MAX_ROWS))):
        if len(row) != len(names):
            raise ValueError(f"row {number} has {len(row)} values and the header {len(names)}")


def _check_names(names: Sequence[str]) -> None:
    if len(names) > MAX_COLUMNS:
        raise ValueError(f"{len(names):,} columns; no model takes more than {MAX_COLUMNS:,}")
    if len({*names}) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"column {shown(twice)} is there more than once")


def _parquet(data: bytes) -> tuple[Columns, Any]:
    try:
        file = pq.ParquetFile(io.BytesIO(data))
        limit(file.metadata.num_rows, 1)
        _check_names(file.schema_arrow.names)
        leaves = [file.schema.column(number) for number in range(len(file.schema))]
        _limit_unpacked(sum(_fixed_bytes(file, leaves)))
        # A text that is stored once for many rows is kept once, until it is known how long all of them are.
        texts = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY"]
        table = pq.ParquetFile(io.BytesIO(data), read_dictionary=texts).read()
        _limit_unpacked(sum(_unpacked_bytes(chunk) for column in table.columns for chunk in column.chunks))
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"the body is no Parquet: {first_line(error)}") from None
    return {name: _listed(column, name) for name, column in zip(table.column_names, table.columns, strict=True)}, {}


def _limit_unpacked(num_bytes: int) -> None:
    if num_bytes > MAX_BODY_BYTES:
        raise ValueError(f"{num_bytes:,} bytes when unpacked; send at most {MAX_BODY_BYTES:,}")


def _fixed_bytes(file: pq.ParquetFile, leaves: Sequence[pq.ColumnSchema]) -> Iterator[int]:
    """Yield what each chunk of a column takes at least: equal values may be stored as one and a count."""
    for group in range(file.num_row_groups):
        for number, leaf in enumerate(leaves):
            chunk = file.metadata.row_group(group).column(number)
            yield max(chunk.total_uncompressed_size, chunk.num_values * _WIDTHS.get(leaf.physical_type, leaf.length))


def _unpacked_bytes(array: pa.Array) -> int:
    if isinstance(array, pa.DictionaryArray):
        return pc.sum(pc.binary_length(array.dictionary).take(array.indices)).as_py() or 0
    if isinstance(array, pa.StructArray):
        return sum(map(_unpacked_bytes, array.flatten()))
    if isinstance(array, pa.MapArray):
        return _unpacked_bytes(array.keys) + _unpacked_bytes(array.items)
    return _unpacked_bytes(array.values) if pa.types.is_nested(array.type) else array.nbytes


def _listed(column: pa.ChunkedArray, name: str) -> list[Any]:
    try:
        return column.to_pylist()
    except (ValueError, OverflowError, LookupError, pa.ArrowException) as error:
        message = f"values of {column.type} that Python has no equal of ({first_line(error)})"
        raise ValueError(f"column {shown(name)} has {message}") from None


_READERS: dict[str, Callable[[bytes], tuple[Columns, Any]]] = {
    "application/json": _json,
    "text/csv": _csv,
    "application/vnd.apache.parquet": _parquet,
}


def first_line(error: Exception) -> str:
    """Return the beginning of what an error of a library says, which may hold what was sent."""
    text = str(error).partition("\n")[0]
    return text if len(text) <= 2 * _SHOWN else f"{text[: 2 * _SHOWN]}…"


def _refuse_constant(name: str) -> None:
    raise ValueError(f"the body has {name}, which is no JSON; give null where a number is unknown")


def _integer(text: str) -> int:
    # Longer ones than any column takes; Python itself reads no more than 4,300 digits.
    if len(text) > _MAX_DIGITS:
        raise ValueError(f"the body has an integer of {len(text):,} digits; no column takes it")
    return int(text)


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(
            f"the body has {shown(next(name for name in names if names.count(name) > 1))} twice in an object"
        )
    return found


def _must_be(kind: type, value: Any, name: str, wanted: str) -> None:
    """Refuse a JSON value of another type; true is no number."""
    if type(value) is not kind:
        raise ValueError(f"{name} is {_KINDS.get(type(value), 'no JSON')}; give {wanted}")
