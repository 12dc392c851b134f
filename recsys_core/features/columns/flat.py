"""Columns as flat values and how many of them are of each row. Legend: B rows, N values of all rows together."""

import functools
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys_core.columns import RowError, is_list, plain

_KEPT_ONES = 16


def spans(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """int64 [sum of lengths]: starts[0], starts[0] + 1, … for lengths[0] numbers, then from starts[1], and so on."""
    offsets = np.cumsum(lengths, dtype=np.int64) - lengths
    return np.repeat(starts - offsets, lengths) + np.arange(int(lengths.sum()), dtype=np.int64)


@functools.lru_cache(maxsize=_KEPT_ONES)
def ones(num_rows: int) -> np.ndarray:
    """Return int32 [B], the lengths of rows with a value each; shared, and therefore read-only."""
    lengths = np.ones(num_rows, dtype=np.int32)
    lengths.flags.writeable = False
    return lengths


def bags(column: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """Flatten a column of values or of lists: the values that are not null, and int32 [B] how many are of each row.

    A null, an empty list and a list of nulls all have length 0.
    """
    lengths = ones(len(column))
    if not column.null_count and pa.types.is_primitive(column.type):
        return column, lengths
    if is_list(column.type):
        lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False).astype(np.int32)
        column = pc.list_flatten(column)
    if is_list(column.type):
        # Lists of lists: a row's values are those of all its lists.
        inner, counts = bags(column)
        ends = np.concatenate([[0], np.cumsum(counts)])[np.concatenate([[0], np.cumsum(lengths)])]
        return inner, np.diff(ends).astype(np.int32)
    column = plain(column)
    if pa.types.is_nested(column.type):
        raise ValueError(
            f"its type {column.type} is nested otherwise than in lists; give values, lists, or lists of lists"
        )
    if column.null_count:
        valid = column.is_valid().to_numpy(zero_copy_only=False)
        rows = np.repeat(np.arange(len(lengths)), lengths)
        lengths = np.bincount(rows[valid], minlength=len(lengths)).astype(np.int32)
        column = column.drop_null()
    return column, lengths


def outside(
    ids: np.ndarray, lengths: np.ndarray, size: int, out_of_range: Literal["refuse", "drop"] = "refuse"
) -> np.ndarray | None:
    """Return which of int64 [N] are no rows of a table of `size`, as bool [N]; None if all are.

    `lengths` [B] are how many of them each row of the data has.

    Raises:
        RowError: one is none, and `out_of_range` is refuse.
    """
    # Seen as unsigned, negative numbers are the largest.
    if not len(ids) or int(ids.view(np.uint64).max()) < size:
        return None
    found = (ids < 0) | (ids >= size)
    if out_of_range == "refuse":
        place = int(np.argmax(found))
        raise RowError(
            int(np.searchsorted(np.cumsum(lengths), place, side="right")),
            f"id {ids[place]} is not in 0..{size - 1}; raise num_embeddings, use encoding: hash or "
            "vocabulary, or leave such ids out with out_of_range: drop, which counts them",
        )
    return found


def split(column: pa.Array, separator: str | None) -> pa.Array:
    """Split texts into lists at `separator`, if there is one; an empty text has no values."""
    column = plain(column)
    if separator is None or not pa.types.is_string(column.type):
        return column
    return pc.split_pattern(pc.if_else(pc.equal(column, ""), pa.scalar(None, column.type), column), separator)
