"""Queries of ready-made examples: evaluation rows with one id are one query, whose relevant items are those of all."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys_core import columns
from recsys_core.features.base import Jagged
from recsys_core.retrieval.ingest import SEEN, TRUTH
from recsys_core.retrieval.preprocess.log import distinct

USER = "user_id"


def grouped(evaluation: pa.Table, kept: Sequence[str], place: str) -> pa.Table:
    """Return user_id, the columns `kept`, gt_items and seen_items of each query, whose rows agree; `place` is theirs.

    Raises:
        ValueError: rows of one query differ, or one has no item; names them.
    """
    encoded = evaluation[USER].combine_chunks().dictionary_encode()
    codes = encoded.indices.to_numpy()
    num_queries = len(encoded.dictionary)
    firsts = np.full(num_queries, len(codes))
    np.minimum.at(firsts, codes, np.arange(len(codes)))
    made = pa.table({USER: encoded.dictionary})
    for name in kept:
        column = columns.by_chunk(columns.plain, evaluation[name]).combine_chunks()
        if num_queries < len(codes) and (row := _first_difference(column, column.take(pa.array(firsts[codes])))) >= 0:
            raise ValueError(
                f"{place}: column {name!r}, row {row}: differs from row {firsts[codes[row]]}, of the "
                f"same {USER} {encoded.dictionary[int(codes[row])].as_py()!r}; rows of one query are alike: write "
                "them so, or name the id of requests as user_id in data.columns"
            )
        made = made.append_column(name, column.take(pa.array(firsts)))
    truth = _merged(evaluation[TRUTH].combine_chunks(), codes, num_queries)
    lengths = pc.list_value_length(truth).to_numpy()
    if not lengths.all():
        query = int(np.argmin(lengths))
        raise ValueError(
            f"{place}: column {TRUTH!r}, row {firsts[query]}: {USER} "
            f"{encoded.dictionary[query].as_py()!r} has no relevant item; leave such queries out"
        )
    nothing = pa.array([], truth.type.value_type)
    seen = pa.ListArray.from_arrays(pa.array(np.zeros(num_queries + 1), pa.int32()), nothing)
    if SEEN in evaluation.column_names:
        seen = _merged(evaluation[SEEN].combine_chunks(), codes, num_queries)
    return made.append_column(TRUTH, truth).append_column(SEEN, seen)


def _merged(lists: pa.ListArray, codes: np.ndarray, num_queries: int) -> pa.ListArray:
    """Return for each query the distinct ids of its rows' lists."""
    flat = pc.list_flatten(lists).dictionary_encode()
    lengths = pc.list_value_length(lists).to_numpy()
    owners = np.repeat(codes, lengths)
    order = np.argsort(owners, kind="stable")
    counts = np.bincount(owners, minlength=num_queries).astype(np.int32)
    once = distinct(Jagged(flat.indices.to_numpy()[order].astype(np.int64), counts))
    offsets = np.concatenate([[0], np.cumsum(once.lengths)])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), flat.dictionary.take(pa.array(once.values)))


def _first_difference(values: pa.Array, others: pa.Array) -> int:
    """Return the first row in which two columns of one type differ, -1 if they do not; an empty list is as a null."""
    if columns.is_list(values.type):
        own, other = (pc.fill_null(pc.list_value_length(each), 0).to_numpy() for each in (values, others))
        if (own != other).any():
            return int(np.argmax(own != other))
        entry = _first_difference(pc.list_flatten(values), pc.list_flatten(others))
        return int(np.searchsorted(np.cumsum(own), entry, side="right")) if entry >= 0 else -1
    if pa.types.is_nested(values.type):
        return next((row for row, (one, two) in enumerate(zip(values, others, strict=True)) if not one.equals(two)), -1)
    both_null = pc.and_(values.is_null(), others.is_null())
    same = pc.or_(pc.fill_null(pc.equal(values, others), False), both_null)  # noqa: FBT003
    return pc.index(same, pa.scalar(False)).as_py()  # noqa: FBT003
