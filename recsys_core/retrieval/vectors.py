"""The vectors of an Embeddings artifact: read and checked, and searched in masked lists by blocks of queries."""

import collections
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from recsys_core import uri
from recsys_core.features.hashing import hashed
from recsys_core.metrics.retrieval import NO_ITEM, Lists, blocks, keep_unseen

# Cells of one block's retrieved lists: about 100 bytes a cell with all temporaries, so 200 MB.
_BLOCK_CELLS = 1 << 21


class Items(NamedTuple):
    """The item table's vectors. ids: Arrow array [I], unique; vectors: float32 [I, D], finite."""

    ids: pa.Array
    vectors: np.ndarray


class Queries(NamedTuple):
    """The queries of one ground-truth day. users: Arrow array [Q]; vectors: float32 [Q, D], finite, none zero.

    truth: what is to be found, at least one item each; seen: what the user has interacted with before.
    Items that the item table lacks are -1 in both.
    """

    users: pa.Array
    vectors: np.ndarray
    truth: Lists
    seen: Lists


class Search(NamedTuple):
    """One way to rank the items for every query of the day.

    find(rows [B], width) returns ids [B, width] and scores [B, width] in falling order, padded with -1;
    tolerance [Q]: scores this close to each other are equal; costs [Q]: cells that a query needs besides its list;
    num_threads: calls of `find` at once, where one has no threads of its own;
    rescore(rows [B], ids [B, width]): the exact scores of what `find` returns by others, -inf of padding.
    """

    find: Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]
    tolerance: np.ndarray
    costs: np.ndarray | int = 0
    num_threads: int = 1
    rescore: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None


def read_items(folder: Path) -> Items:
    """Read `item_id` and `embedding` of an item table.

    Raises:
        ValueError: no rows, a missing column, an id twice, a vector with NaN or infinity (names the item).
    """
    ids, vectors = _read(folder, "item_id", [])
    return Items(unique(ids["item_id"], folder, "item_id"), vectors)


def read_vectors(folder: Path, key: str) -> np.ndarray:
    """Read `embedding` alone, float32 [N, D], of a table of the ids `key`."""
    return _read(folder, key, [])[1]


def read_queries(folder: Path, items: pa.Array) -> Queries:
    """Read `user_id`, `embedding`, `gt_items`, `seen_items`; items become positions in `items`.

    Raises:
        ValueError: no rows, a missing column, a vector that is NaN, infinite or zero, a user without ground truth or
            with the same ground-truth item twice; each names the user.
    """
    columns, vectors = _read(folder, "user_id", ["gt_items", "seen_items"])
    users = columns["user_id"]
    refuse(folder, users, np.asarray(~vectors.any(axis=1)), "a zero vector, which ranks nothing")
    truth = lists(columns["gt_items"], items, str(folder))
    refuse(folder, users, truth.lengths == 0, "no ground-truth items; leave such users out")
    refuse(folder, users, repeats(columns["gt_items"]), "the same ground-truth item twice")
    return Queries(users, vectors, truth, lists(columns["seen_items"], items, str(folder)))


def unique(ids: pa.Array, where: object, column: str) -> pa.Array:
    """Return `ids`, each of which is there once.

    Raises:
        ValueError: one is there twice; names it.
    """
    # Sorted, in a fraction of the memory that a table of all ids takes; equal hashes are looked at again.
    keys = ids.to_numpy() if pa.types.is_integer(ids.type) else hashed(ids.cast(pa.string()), "xxh3")
    rising = np.sort(keys)
    if len(again := rising[1:][rising[1:] == rising[:-1]]):
        counts = pc.value_counts(ids.filter(pa.array(np.isin(keys, again))))
        twice = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")
        if len(twice):
            raise ValueError(
                f"{where}: {column} {twice[0].as_py()!r} stands there more than once; an item has one vector"
            )
    return ids


def positions(ids: pa.Array, table: pa.Array, what: str) -> np.ndarray:
    """int64: where each of `ids` stands in `table`; -1 where it does not.

    Raises:
        ValueError: the two hold different types of ids; `what` names them.
    """
    if _plain(ids.type) != _plain(table.type):
        raise ValueError(f"{what}: ids of type {ids.type} where those to match are {table.type}; make them one type")
    found = pc.index_in(ids.cast(_plain(ids.type)), value_set=table.cast(_plain(ids.type)))
    return found.fill_null(NO_ITEM).to_numpy(zero_copy_only=False).astype(np.int64)


def lists(column: pa.Array, items: pa.Array, what: str) -> Lists:
    """Return a column of lists of ids as lists of positions in `items`; a null is an empty list.

    Raises:
        ValueError: the two hold different types of ids; `what` names them.
    """
    lengths = pc.list_value_length(column).fill_null(0).to_numpy(zero_copy_only=False)
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    return Lists(positions(column.flatten(), items, what), offsets)


def masked_lists(
    search: Search, seen: Lists, num_items: int, num_keep: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield every query once, block by block: rows [B], ids [B, num_keep] and scores without what was seen.

    Each block is searched for `num_keep` + the largest number of seen items in it, so that the masked lists are full.
    """
    lengths = seen.lengths

    def searched(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        width = min(num_items, num_keep + int(lengths[rows].max()))
        return rows, *keep_unseen(*search.find(rows, width), seen.take(rows), num_keep)

    costs = np.maximum(num_keep + lengths, search.costs)
    if search.num_threads == 1:
        yield from map(searched, blocks(costs, _BLOCK_CELLS))
        return
    waiting: collections.deque[Future[tuple[np.ndarray, np.ndarray, np.ndarray]]] = collections.deque()
    with ThreadPoolExecutor(search.num_threads) as pool:
        for rows in blocks(costs, _BLOCK_CELLS // search.num_threads):
            if len(waiting) == search.num_threads:
                yield waiting.popleft().result()
            waiting.append(pool.submit(searched, rows))
        while waiting:
            yield waiting.popleft().result()


def _read(folder: Path, key: str, names: list[str]) -> tuple[dict[str, pa.Array], np.ndarray]:
    source = ds.dataset([location.path for location in uri.resolve(folder)], format="parquet")
    missing = [name for name in [key, *names, "embedding"] if name not in source.schema.names]
    if missing:
        raise ValueError(f"{folder}: no column {missing[0]!r}; there are {', '.join(source.schema.names)}")
    kind = source.schema.field("embedding").type
    if not pa.types.is_fixed_size_list(kind) or kind.value_type != pa.float32():
        raise ValueError(f"{folder}: embedding is {kind} where fixed_size_list<float> is needed")
    num_rows = source.count_rows()
    if not num_rows:
        raise ValueError(f"{folder}: no rows, so there is nothing to search")
    # Filled batch by batch: the vectors are most of the memory, and are held once.
    vectors = np.empty((num_rows, kind.list_size), np.float32)
    kept: dict[str, list[pa.Array]] = {name: [] for name in [key, *names]}
    start = 0
    for batch in source.to_batches(columns=[*kept, "embedding"]):
        for name, arrays in kept.items():
            arrays.append(batch.column(name))
        column = batch.column("embedding")
        if batch.column(key).null_count or column.null_count or column.flatten().null_count:
            raise ValueError(f"{folder}: {key} or embedding is null between rows {start} and {start + batch.num_rows}")
        vectors[start : start + batch.num_rows] = column.flatten().to_numpy().reshape(-1, kind.list_size)
        start += batch.num_rows
    columns = {name: pa.chunked_array(arrays).combine_chunks() for name, arrays in kept.items()}
    refuse(folder, columns[key], np.asarray(~np.isfinite(vectors).all(axis=1)), "a vector with NaN or infinity")
    return columns, vectors


def refuse(where: object, ids: pa.Array, bad: np.ndarray, what: str) -> None:
    """Refuse rows that are `bad`, bool [N], whose ids are `ids`.

    Raises:
        ValueError: there are any; names the first, and says how many there are.
    """
    if bad.any():
        first = ids[int(bad.argmax())].as_py()
        raise ValueError(f"{where}: {first!r} has {what} ({int(bad.sum())} of {len(bad)} rows like it)")


def repeats(column: pa.Array) -> np.ndarray:
    """Bool [N]: the lists in which something is twice."""
    parents = pc.list_parent_indices(column).to_numpy(zero_copy_only=False).astype(np.int64)
    codes = column.flatten().dictionary_encode().indices.fill_null(NO_ITEM).to_numpy(zero_copy_only=False)
    order = np.lexsort((codes, parents))
    equal = (parents[order][1:] == parents[order][:-1]) & (codes[order][1:] == codes[order][:-1])
    repeats = np.zeros(len(column), bool)
    repeats[parents[order][1:][equal]] = True
    return repeats


def _plain(kind: pa.DataType) -> pa.DataType:
    return pa.int64() if pa.types.is_integer(kind) else pa.large_string()
