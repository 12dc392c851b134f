"""What a request asks for: its columns and parameters, read from a body of limited size and checked one by one.

A body is what MLflow's clients send: JSON of `dataframe_records`, `dataframe_split`, `instances` or `inputs`, and
`params`; or a CSV or Parquet file of columns. Every error names the column, the parameter or the key, and shows no more
of what was sent.
"""

import io
import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

MAX_BODY_BYTES = 32 << 20
MAX_ROWS = 10_000
# Rows of a request times the items that each gets.
MAX_ANSWERS = 1_000_000
DEFAULT_K = 20
EXCLUDE = "exclude"
_ROWS = ("dataframe_records", "dataframe_split", "instances", "inputs")
_SHOWN = 80
_MAX_DIGITS = 1_000
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


def _json(data: bytes) -> tuple[Columns, Any]:
    try:
        sent = json.loads(data.decode(), parse_int=_integer, parse_constant=_refuse_constant, object_pairs_hook=_once)
    except RecursionError:
        raise ValueError("the body is JSON that is nested too deeply") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"the body is no UTF-8 (byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"the body is no JSON: {error}") from None
    _must_be(dict, sent, "the body", f"an object with one of {', '.join(_ROWS)}, and params")
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
        frame = pd.read_csv(io.BytesIO(data), nrows=MAX_ROWS + 1)
    except (ValueError, pd.errors.ParserError) as error:
        raise ValueError(f"the body is no CSV of columns: {first_line(error)}") from None
    return {str(name): frame[name].tolist() for name in frame}, {}


def _parquet(data: bytes) -> tuple[Columns, Any]:
    try:
        file = pq.ParquetFile(io.BytesIO(data))
        limit(file.metadata.num_rows, 1)
        num_bytes = sum(file.metadata.row_group(number).total_byte_size for number in range(file.num_row_groups))
        if num_bytes > MAX_BODY_BYTES:
            raise ValueError(f"{num_bytes:,} bytes when unpacked; send at most {MAX_BODY_BYTES:,}")
        return file.read().to_pydict(), {}
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"the body is no Parquet: {first_line(error)}") from None


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
