"""Columns of keys and values, as Arrow maps or as texts such as `a:0.5`, and which keys of two columns are the same."""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys_core.features.columns.flat import bags, spans, split
from recsys_core.features.columns.lists import texts as Columnstexts
from recsys_core.features.columns.numbers import floats


class Pairs(NamedTuple):
    """N keys (texts) with their values, of B rows; `lengths` [B] says how many are of each row."""

    keys: pa.Array
    values: pa.Array
    lengths: np.ndarray

    @property
    def owners(self) -> np.ndarray:
        """int64 [N]: the row of each pair."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)


def pairs(column: pa.Array, separator: str | None, between: str) -> Pairs:
    """Read an Arrow map, or texts (lists of them, or split at `separator`) of key, `between` and value.

    A text without `between` is a key whose value is null. Null keys, and maps that are null, are left out.
    """
    if pa.types.is_map(column.type):
        return _of_map(column)
    texts, lengths = bags(split(column, separator))
    if not pa.types.is_string(texts.type):
        if not (pa.types.is_integer(texts.type) or pa.types.is_null(texts.type)):
            raise ValueError(f"its type {column.type} is neither a map nor texts of key{between}value; write one")
        return Pairs(Columnstexts(texts), pa.nulls(len(texts), pa.string()), lengths)
    parts = pc.split_pattern(texts, between, max_splits=1)
    several = pc.greater(pc.list_value_length(parts), 1)
    flat, starts = parts.flatten(), np.asarray(parts.offsets)[:-1] - (parts.offsets[0].as_py() if len(parts) else 0)
    values = flat.take(pa.array(starts + 1, mask=~np.asarray(several)))
    return Pairs(flat.take(pa.array(starts)), values, lengths)


def nested(column: pa.Array) -> tuple[Pairs, Pairs]:
    """Read a map of maps: outer pairs without values, and per outer pair the inner pairs.

    Texts are read as `outer^inner:value,inner:value|outer^…`.
    """
    if pa.types.is_map(column.type) and pa.types.is_map(column.type.item_type):
        outer = _of_map(column)
        return outer, _of_map(outer.values)
    if not (pa.types.is_string(column.type) or pa.types.is_null(column.type)):
        raise ValueError(f"its type {column.type} is neither a map of maps nor texts such as a^x:1,y:2|b^x:3")
    outer = pairs(column.cast(pa.string()), "|", "^")
    return outer, pairs(outer.values, ",", ":")


def _of_map(column: pa.Array) -> Pairs:
    kind = column.type
    entry = pa.struct([pa.field("key", kind.key_type, nullable=False), pa.field("value", kind.item_type)])
    lists = column.cast(pa.list_(entry))
    entries = pc.list_flatten(lists)
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    return Pairs(Columnstexts(entries.field(0)), entries.field(1), lengths)


def numbers(values: pa.Array, missing: float = np.nan) -> np.ndarray:
    """float64 [N] of numbers or of texts of numbers; `missing` for null."""
    if pa.types.is_string(values.type):
        values = pc.cast(values, pa.float64())
    found = floats(values)
    return np.where(np.isnan(found), missing, found)


def codes(*columns: pa.Array) -> list[np.ndarray]:
    """int64 arrays in which the same text has the same number, over all columns."""
    joined = pa.concat_arrays(list(columns)).dictionary_encode().indices.fill_null(-1).to_numpy(zero_copy_only=False)
    return np.split(joined.astype(np.int64), np.cumsum([len(column) for column in columns])[:-1])


def found(
    asked_owners: np.ndarray, asked: np.ndarray, owners: np.ndarray, held: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Find which pairs answer which questions: of the same row and the same code.

    Returns:
        (question, place): by rising question, and by rising place among those of one question.
    """
    span = max(int(asked.max(initial=0)), int(held.max(initial=0))) + 2
    order = np.argsort(owners * span + held, kind="stable")
    keys = (owners * span + held)[order]
    wanted = asked_owners * span + asked
    first, last = np.searchsorted(keys, wanted, "left"), np.searchsorted(keys, wanted, "right")
    counts = last - first
    return np.repeat(np.arange(len(asked)), counts), order[spans(first, counts)]
