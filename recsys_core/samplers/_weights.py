r"""A user's own weights of items, by which negatives are drawn: Parquet, or graph-learn's table of nodes as text.

id:int64<TAB>weight:float<TAB>attrs:string        the first line; ids may be `string`, and attrs may be missing
42<TAB>1.5<TAB>shoes:19.9                         attributes, joined by `:` or \x02: of a log, which has them, not read
"""

import math
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recsys_core.columns import ids, refuse_twice

_HEADER = re.compile(r"id:(int64|string)\tweight:(?:float|double)(\tattrs:string)?")
_INTEGER = re.compile(r"[+-]?\d{1,19}")


class Weights(NamedTuple):
    """Ids [N] of items, int64 or string, each once, and their weights float64 [N], all above 0.

    `first` is the number of the first row in the file, for messages. `attributes` [N] are texts beside them, if any.
    """

    path: Path | str
    ids: pa.Array
    weights: np.ndarray
    first: int
    attributes: pa.Array | None = None


def read(path: Path) -> Weights:
    """Read and check a file of weights.

    Raises:
        ValueError: it is not there or of another form, has no rows, an id twice or none, or a weight that is not above
            0; names file and row.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; name the table of the items' weights")
    return checked(_of_parquet(path) if path.suffix.lower() == ".parquet" else of_text(path))


def checked(found: Weights) -> Weights:
    """Return the weights, of which there are some, all above 0, and each item's once.

    Raises:
        ValueError: it is not so; names file and row.
    """
    path = found.path
    if not len(found.ids):
        raise ValueError(f"{path}: no rows; give every item of the item table a weight")
    bad = ~(np.isfinite(found.weights) & (found.weights > 0))
    if bad.any():
        row = int(bad.argmax())
        raise ValueError(
            f"{path}, row {found.first + row}: the weight of item {found.ids[row].as_py()!r} is {found.weights[row]}; "
            "give a number above 0, or take the item out of the item table too"
        )
    coded = found.ids.dictionary_encode().indices.to_numpy()
    _, firsts = np.unique(coded, return_index=True)
    if len(firsts) < len(coded):
        again = np.ones(len(coded), bool)
        again[firsts] = False
        row = int(again.argmax())
        raise ValueError(
            f"{path}, row {found.first + row}: item {found.ids[row].as_py()!r} is there a second time; drop one"
        )
    return found


def of_items(path: Path, items: pa.Array) -> np.ndarray:
    """Return the weight of each of `items`, float64.

    Raises:
        ValueError: see `read`; or the file and the item table have not the same items: names one of them.
    """
    return matched(read(path), items)


def matched(given: Weights, items: pa.Array) -> np.ndarray:
    """Return the weight of each of `items`, float64.

    Raises:
        ValueError: the weights and the item table have not the same items: names one of them.
    """
    path, wanted = given.path, ids(items)
    if given.ids.type != wanted.type:
        raise ValueError(
            f"{path}: ids of type {given.ids.type} where the item table's are {wanted.type}; make them one type"
        )
    unknown = pc.index_in(given.ids, value_set=wanted).is_null().to_numpy(zero_copy_only=False)
    if unknown.any():
        row = int(unknown.argmax())
        raise ValueError(
            f"{path}, row {given.first + row}: item {given.ids[row].as_py()!r} is not in the item table "
            f"({int(unknown.sum())} of {len(unknown)} rows like it); take it out, or add it to the log's items"
        )
    at = pc.index_in(wanted, value_set=given.ids)
    if at.null_count:
        missing = wanted.filter(at.is_null())
        raise ValueError(
            f"{path}: item {missing[0].as_py()!r} of the item table has no row ({len(missing)} of {len(wanted)} items "
            "like it); give every item a weight"
        )
    return given.weights[at.to_numpy()]


def _of_parquet(path: Path) -> Weights:
    try:
        names = pq.read_schema(path).names
        refuse_twice(path, names)
        if missing := [name for name in ("item_id", "weight") if name not in names]:
            raise ValueError(f"{path}: no column {missing[0]!r}; there are {', '.join(names)}")
        table = pq.read_table(path, columns=["item_id", "weight"])
    except (pa.ArrowException, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{path}: not a readable Parquet file ({reason}); write it again") from None
    item_id, weight = (table[name].combine_chunks() for name in table.column_names)
    if item_id.null_count:
        row = int(item_id.is_null().to_numpy(zero_copy_only=False).argmax())
        raise ValueError(f"{path}, row {row}: item_id is null; drop the row")
    try:
        item_id = ids(item_id)
    except ValueError as error:
        raise ValueError(f"{path}, column item_id: {error}") from None
    if not (pa.types.is_integer(weight.type) or pa.types.is_floating(weight.type) or pa.types.is_decimal(weight.type)):
        raise ValueError(f"{path}: column weight is {weight.type}; give numbers")
    return Weights(path, item_id, weight.cast(pa.float64()).to_numpy(zero_copy_only=False), 0)


def is_text(path: Path) -> bool:
    """Return whether a file begins as graph-learn's table of nodes does."""
    with path.open("rb") as file:
        return file.read(3) == b"id:"


def of_text(path: Path) -> Weights:
    """Read graph-learn's table of nodes; `checked` looks at what it says.

    Raises:
        ValueError: it is of another form, or an id is none; names file and row.
    """
    try:
        header, *lines = path.read_bytes().decode().replace("\r\n", "\n").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: no UTF-8 (byte {error.start}); write it as UTF-8") from None
    form = _HEADER.fullmatch(header)
    if form is None:
        raise ValueError(
            f"{path}, row 1: {header[:80]!r} where 'id:int64\\tweight:float\\tattrs:string' is needed, with tabs "
            "between; or give a .parquet file of item_id and weight"
        )
    whole, num_fields = form[1] == "int64", 3 if form[2] else 2
    found: list[int | str] = []
    attributes: list[str] = []
    weights = np.empty(len(lines))
    for place, line in enumerate(lines):
        fields = line.split("\t")
        if len(fields) != num_fields:
            raise ValueError(f"{path}, row {place + 2}: {len(fields)} fields where the first line has {num_fields}")
        weights[place] = _number(fields[1])
        found.append(_integer(path, place, fields[0]) if whole else fields[0])
        if fields[0] == "":
            raise ValueError(f"{path}, row {place + 2}: the id is empty; drop the row")
        attributes += fields[2:]
    given = ids(pa.array(found, pa.int64() if whole else pa.string()))
    return Weights(path, given, weights, 2, pa.array(attributes, pa.string()) if form[2] else None)


def _integer(path: Path, place: int, text: str) -> int:
    if not _INTEGER.fullmatch(text) or not -(1 << 63) <= int(text) < 1 << 63:
        raise ValueError(
            f"{path}, row {place + 2}: id {text[:40]!r} is no int64, which the first line says; mend either"
        )
    return int(text)


def _number(text: str) -> float:
    """Return the number, NaN for what is none: `read` names its row."""
    try:
        return float(text) if "_" not in text else math.nan
    except ValueError:
        return math.nan
