"""Vectors, ids and ground truth in tables of the user's own, of any reader: read, checked, and in the few types used.

A vector is a list of numbers, or a text of them with a separator between; a list of ids likewise. Texts that hold JSON
lists, as those of a CSV file that was written here, are read as these.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from recsys_core import columns, readers, uri
from recsys_core.artifacts import Frozen
from recsys_core.columns import RowError
from recsys_core.metrics.retrieval import Lists
from recsys_core.progress import Event, Sink
from recsys_core.readers import Reader
from recsys_core.retrieval import vectors
from recsys_core.retrieval.vectors import Items

CHUNK_ROWS = 32_768


class ItemTable(Frozen):
    """A table of items, one row each."""

    path: str
    id_column: str = "item_id"
    vector_column: str = "embedding"
    separator: str = Field(default=",", min_length=1)


class RequestTable(Frozen):
    """A table of requests, each with its vector or vectors and with the items that are to be found.

    `num_interests` vectors stand one behind the other in a row, or as many as `interests_column` says.
    """

    path: str
    id_column: str = "request_id"
    truth_column: str = "gt_items"
    vector_column: str = "embedding"
    seen_column: str | None = None
    num_interests: int = Field(default=1, ge=1)
    interests_column: str | None = None
    separator: str = Field(default=",", min_length=1)


class Requests(NamedTuple):
    """Some rows of a table of requests.

    ids [Q]; vectors float32 [V, D], those of a request behind each other; offsets int64 [Q + 1] into these; truth: what
    is to be found, of requests without any an empty list; seen: what is masked.
    """

    ids: pa.Array
    vectors: np.ndarray
    offsets: np.ndarray
    truth: Lists
    seen: Lists


def read_items(
    table: ItemTable,
    sink: Sink,
    *,
    allow_zero: bool,
    unique: bool = True,
    aside: Path | None = None,
    share: range | None = None,
) -> Items:
    """Read the vectors of all items, or of the rows `share`; a zero vector, which has no direction, if `allow_zero`.

    With `aside`, a file to make, they lie there and are mapped: for more of them than fit in memory.

    Raises:
        ValueError: no rows, a missing column, an id that is null or there twice, a vector that is null, of another
            length than the others', not finite or zero; names the item or its row.
    """
    reader = opened(table.path, [table.id_column, table.vector_column])
    share = range(reader.num_rows) if share is None else share
    ids: list[pa.Array] = []
    made: np.ndarray | None = None
    done = 0
    for rows in _blocks(reader, [table.id_column, table.vector_column], share):
        named = _ids(rows.column(table.id_column), f"{table.path}: {table.id_column}", share.start + done)
        what = f"{table.path}: {table.vector_column}"
        numbers, lengths = _numbers(rows.column(table.vector_column), table.separator, what, named)
        if made is None:
            shape = (len(share), int(lengths[0]))
            made = np.empty(shape, np.float32) if aside is None else _mapped(aside, shape)
        _refuse(lengths != made.shape[1], named, what, f"a vector of another length than {made.shape[1]}, the first's")
        made[done : done + len(named)] = numbers.reshape(-1, made.shape[1])
        _refuse_unfit(made[done : done + len(named)], named, what, allow_zero=allow_zero)
        ids.append(named)
        done += len(named)
        sink(Event(stage="read items", done=done, total=len(share)))
    assert made is not None
    joined = _joined(ids, table.path)
    return Items(vectors.unique(joined, table.path, table.id_column) if unique else joined, made)


def shape(table: ItemTable) -> tuple[int, int, int]:
    """Return how many rows a table has, how long its first vector is, and about how many bytes all ids take.

    Raises:
        ValueError: see `read_items`.
    """
    wanted = [table.id_column, table.vector_column]
    reader = opened(table.path, wanted)
    rows = next(_blocks(reader, wanted))
    named = _ids(rows.column(table.id_column), f"{table.path}: {table.id_column}", 0)
    what = f"{table.path}: {table.vector_column}"
    _, lengths = _numbers(rows.column(table.vector_column), table.separator, what, named)
    return reader.num_rows, int(lengths[0]), named.nbytes * reader.num_rows // len(named)


def most_rows(table: ItemTable) -> int:
    """Return how many rows of a table are read at once at most."""
    return CHUNK_ROWS + int(opened(table.path, [table.id_column, table.vector_column]).block_rows.max())


def _mapped(file: Path, shape: tuple[int, int]) -> np.ndarray:
    free, wanted = shutil.disk_usage(file.parent).free, 4 * shape[0] * shape[1]
    if free < wanted:
        raise ValueError(f"{file.parent}: {free:,} bytes are free where the vectors of all items take {wanted:,}")
    return np.memmap(file, np.float32, "w+", shape=shape)


def read_ids(table: ItemTable) -> pa.Array:
    """Read the ids of items alone.

    Raises:
        ValueError: see `read_items`.
    """
    reader = opened(table.path, [table.id_column])
    named = _ids(readers.read_all(reader, [table.id_column])[table.id_column], f"{table.path}: {table.id_column}", 0)
    return vectors.unique(named, table.path, table.id_column)


def read_requests(table: RequestTable, items: pa.Array, dim: int, *, allow_zero: bool) -> Iterator[Requests]:
    """Read requests in their order, some tens of thousands at a time; `items` are the ids, `dim` is of their vectors.

    Raises:
        ValueError: as `read_items`, for what is named there; an item twice in one list of ground truth.
    """
    names = [table.id_column, table.truth_column, table.vector_column, table.seen_column, table.interests_column]
    wanted = list(dict.fromkeys(name for name in names if name is not None))
    reader = opened(table.path, wanted)
    done = 0
    for rows in _blocks(reader, wanted):
        yield _requests(rows, table, items, dim, done, allow_zero=allow_zero)
        done += rows.num_rows


def num_rows(path: str, wanted: Sequence[str]) -> int:
    """Return how many rows the table at `path` has, which has the `wanted` columns; see `opened`."""
    return opened(path, wanted).num_rows


def opened(path: str, wanted: Sequence[str]) -> Reader:
    """Open a table that has the `wanted` columns.

    Raises:
        ValueError: there is none, it has no rows, or it lacks a column; names the nearest.
    """
    reader = readers.build(readers.infer(path))
    names = list(reader.schema.names)
    columns.refuse_twice(path, names)
    for name in wanted:
        if name not in names:
            raise ValueError(f"{path}: no column {name!r}{uri.nearest(name, names)}; there are {', '.join(names)}")
    if not reader.num_rows:
        raise ValueError(f"{path}: no rows, so there is nothing to search")
    return reader


def _requests(
    rows: pa.Table, table: RequestTable, items: pa.Array, dim: int, start: int, *, allow_zero: bool
) -> Requests:
    named = _ids(rows.column(table.id_column), f"{table.path}: {table.id_column}", start)
    what = f"{table.path}: {table.vector_column}"
    numbers, lengths = _numbers(rows.column(table.vector_column), table.separator, what, named)
    counts = np.full(len(named), table.num_interests, np.int64)
    if table.interests_column is not None:
        counts = _counts(rows.column(table.interests_column), f"{table.path}: {table.interests_column}", named)
        # Rows may be padded to the longest; what is behind a row's own vectors is not looked at.
        _refuse(lengths < counts * dim, named, what, f"fewer numbers than its interests of {dim} have")
        _refuse(lengths % dim != 0, named, what, f"a number of numbers that is no multiple of the items' {dim}")
    else:
        wanted = f"{table.num_interests} x {dim}" if table.num_interests > 1 else str(dim)
        _refuse(lengths != counts * dim, named, what, f"other than {wanted} numbers, which the items' vectors have")
    begins = np.cumsum(lengths) - lengths
    whole = Lists(np.arange(len(numbers) // dim), np.concatenate([begins, [len(numbers)]]) // dim)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    kept = np.repeat(whole.offsets[:-1] - offsets[:-1], counts) + np.arange(offsets[-1])
    vectors_VD = numbers.reshape(-1, dim)[kept]
    owners = np.repeat(np.arange(len(named)), counts)
    _refuse_unfit(vectors_VD, named.take(pa.array(owners)), what, allow_zero=allow_zero)
    what = f"{table.path}: {table.truth_column}"
    truth = _lists(rows.column(table.truth_column), table.separator, items, what)
    _refuse(vectors.repeats(truth), named, what, "the same item twice")
    found = vectors.lists(truth, items, what)
    masked = Lists(np.empty(0, np.int64), np.zeros(len(named) + 1, np.int64))
    if table.seen_column is not None:
        what = f"{table.path}: {table.seen_column}"
        masked = vectors.lists(_lists(rows.column(table.seen_column), table.separator, items, what), items, what)
    return Requests(named, vectors_VD, offsets, found, masked)


def _blocks(reader: Reader, wanted: Sequence[str], share: range | None = None) -> Iterator[pa.Table]:
    """Yield the rows `share`, None: all, some tens of thousands at a time."""
    held: list[pa.Table] = []
    share = range(reader.num_rows) if share is None else share
    stop = 0
    for block, num_rows in enumerate(reader.block_rows):
        start, stop = stop, stop + num_rows
        if stop <= share.start or start >= share.stop:
            continue
        first = max(share.start - start, 0)
        held.append(reader.read(block, wanted).slice(first, min(share.stop, stop) - start - first))
        if sum(table.num_rows for table in held) >= CHUNK_ROWS:
            yield pa.concat_tables(held).combine_chunks()
            held = []
    if held:
        yield pa.concat_tables(held).combine_chunks()


def _whole(column: pa.ChunkedArray) -> pa.Array:
    made = columns.by_chunk(columns.plain, column).combine_chunks()
    return made.combine_chunks() if isinstance(made, pa.ChunkedArray) else made


def _joined(parts: Sequence[pa.Array], path: str) -> pa.Array:
    kinds = {part.type for part in parts}
    if len(kinds) > 1:
        raise ValueError(f"{path}: ids of {' and of '.join(map(str, kinds))}; make them one type")
    return pa.concat_arrays(list(parts))


def _ids(column: pa.ChunkedArray, what: str, start: int) -> pa.Array:
    try:
        named = columns.by_chunk(columns.ids, column).combine_chunks()
    except RowError as error:
        raise ValueError(f"{what}: row {start + error.row}: {error.reason}") from None
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from None
    if named.null_count:
        row = start + pc.index(pc.is_null(named), pa.scalar(value=True)).as_py()
        raise ValueError(f"{what}: row {row} has no id; give it one or leave it out")
    return named


def _numbers(column: pa.ChunkedArray, separator: str, what: str, named: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Return all numbers of a column of vectors, float32, and how many each row has."""
    values = _whole(column)
    _refuse(values.is_null(), named, what, "no vector")
    if pa.types.is_string(values.type):
        values = pc.split_pattern(pc.utf8_trim(values, characters="[] \t"), separator)
    if not columns.is_list(values.type):
        raise ValueError(f"{what}: {values.type} where a list of numbers, or a text of them, is needed")
    lengths = pc.list_value_length(values).to_numpy(zero_copy_only=False).astype(np.int64)
    flat = values.flatten()
    while columns.is_list(flat.type):
        ends = np.concatenate([[0], np.cumsum(lengths)])
        inner = np.concatenate([[0], np.cumsum(pc.list_value_length(flat).fill_null(0).to_numpy(zero_copy_only=False))])
        lengths, flat = np.diff(inner[ends]), flat.flatten()
    owners = np.repeat(np.arange(len(values)), lengths)
    if pa.types.is_string(flat.type):
        flat = pc.utf8_trim_whitespace(flat)
    try:
        flat = columns.cast(flat, pa.float32(), lambda value: f"{value!r} where a number is needed")
    except pa.ArrowNotImplementedError:
        raise ValueError(f"{what}: lists of {flat.type} where numbers are needed") from None
    except RowError as error:
        raise ValueError(f"{what}: {named[int(owners[error.row])].as_py()!r}: {error.reason}") from None
    if flat.null_count:
        null = np.zeros(len(values), bool)
        null[owners[flat.is_null().to_numpy(zero_copy_only=False)]] = True
        _refuse(null, named, what, "a vector with a null in it")
    return flat.to_numpy(zero_copy_only=False), lengths


def _counts(column: pa.ChunkedArray, what: str, named: pa.Array) -> np.ndarray:
    values = _whole(column)
    if not pa.types.is_integer(values.type):
        raise ValueError(f"{what}: {values.type} where a whole number is needed")
    _refuse(values.is_null(), named, what, "no number of interests")
    counts = values.to_numpy(zero_copy_only=False).astype(np.int64)
    _refuse(counts < 1, named, what, "fewer than one interest")
    return counts


def _lists(column: pa.ChunkedArray, separator: str, items: pa.Array, what: str) -> pa.ListArray:
    """Return a column of lists of ids, of the type that the items' have where texts say the same; null is empty."""
    values = _whole(column)
    if pa.types.is_null(values.type):
        return pa.nulls(len(values), pa.list_(items.type))
    if pa.types.is_string(values.type):
        values = _split(values, separator, what)
    elif not columns.is_list(values.type):
        values = pa.ListArray.from_arrays(pa.array(np.arange(len(values) + 1), pa.int32()), values)
    lengths = pc.list_value_length(values).fill_null(0).to_numpy(zero_copy_only=False)
    try:
        flat = columns.ids(values.flatten())
        if pa.types.is_integer(items.type) and pa.types.is_string(flat.type):
            flat = columns.integers(flat)
    except ValueError as error:
        reason = error.reason if isinstance(error, RowError) else str(error)
        raise ValueError(f"{what}: {reason}") from None
    if flat.null_count:
        raise ValueError(f"{what}: an item that is null in a list; leave it out")
    return pa.ListArray.from_arrays(pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32()), flat)


def _split(texts: pa.Array, separator: str, what: str) -> pa.Array:
    filled = texts.filter(pc.and_(texts.is_valid(), pc.greater(pc.binary_length(texts), 0)))
    if len(filled) and pc.all(pc.and_(pc.starts_with(filled, "["), pc.ends_with(filled, "]"))).as_py():
        try:
            return pa.array([json.loads(text) if text else [] for text in texts.to_pylist()])
        except (ValueError, pa.ArrowException) as error:
            raise ValueError(f"{what}: a text in brackets that is no JSON list of ids ({error})") from None
    parts = pc.split_pattern(texts, separator)
    # Splitting nothing gives one empty text.
    empty = pc.fill_null(pc.equal(pc.binary_length(texts), 0), fill_value=False)
    return pc.if_else(empty, pa.scalar([], parts.type), parts)


def _refuse(bad: "np.ndarray | pa.Array", named: pa.Array, what: str, reason: str) -> None:
    flags = bad if isinstance(bad, np.ndarray) else bad.to_numpy(zero_copy_only=False)
    vectors.refuse(what, named, flags, reason)


def _refuse_unfit(vectors_ID: np.ndarray, named: pa.Array, what: str, *, allow_zero: bool) -> None:
    _refuse(~np.isfinite(vectors_ID).all(axis=1), named, what, "a vector with NaN or infinity")
    if not allow_zero:
        _refuse(~vectors_ID.any(axis=1), named, what, "a zero vector, which is as far from all as from none")
