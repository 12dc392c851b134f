"""The items of a bundle: the index over their vectors, and which of its rows an item is.

What a query gets depends on nothing but itself: not on the queries that it is asked with, nor on how many these are.

Legend: B queries, D embedding, N items of all queries.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys_core.features.encoders.row_of import RowOf
from recsys_core.metrics.retrieval import Lists

_MOST_NUMBERS = 1 << 16  # of the queries; FAISS itself goes from twice as many on


class Allowed(NamedTuple):
    """The items that a search may find: bool [items], how many they are, and FAISS's own form of them."""

    mask: np.ndarray
    num_items: int
    selector: Any


class Found(NamedTuple):
    """Items by query, best first: rows of the index int64 [N], scores float32 [N], and int64 [B + 1] where each begins.

    offsets [0    2  2       5]
    rows    [7 3  |  | 1 7 4  ]   query 0: the items of rows 7 and 3, query 1: none, query 2: those of 1, 7 and 4
    """

    rows: np.ndarray
    scores: np.ndarray
    offsets: np.ndarray


def allowed(mask: np.ndarray) -> Allowed:
    """Return bool [items] as a search takes it."""
    import faiss

    return Allowed(mask, int(mask.sum()), faiss.IDSelectorBitmap(np.packbits(mask, bitorder="little")))


class Search:
    """A FAISS index and the ids of its rows."""

    def __init__(self, index: Any, ids: pa.ChunkedArray | pa.Array) -> None:
        """`ids`: one for each row of the index, integers or texts; null for a row that no search finds.

        Raises:
            ValueError: there are more or fewer of them, or one is there twice.
        """
        self.index = index
        held = ids.combine_chunks() if isinstance(ids, pa.ChunkedArray) else ids
        if len(held) != index.ntotal:
            raise ValueError(f"id_map.parquet has {len(held):,} items and index.faiss {index.ntotal:,}")
        self.ids: pa.Array = held
        order = pc.sort_indices(plain(held)).slice(0, len(held) - held.null_count)
        rising = plain(held).take(order)
        twice = pc.equal(rising.slice(1), rising.slice(0, max(0, len(rising) - 1)))
        if pc.any(twice).as_py():
            found = rising[pc.index(twice, value=True).as_py()].as_py()
            raise ValueError(f"id_map.parquet: item {found!r} is there more than once")
        # Arrow's own look-up would hash all items again for every request.
        self._row_of = RowOf(rising, order.to_numpy().astype(np.int64) + 1)

    @property
    def num_items(self) -> int:
        """How many items there are."""
        return len(self.ids) - self.ids.null_count

    @property
    def dim(self) -> int:
        """The vectors' dimension."""
        return self.index.d

    def lists(self, column: pa.Array, what: str) -> Lists:
        """Return a column of lists of ids as lists of rows of the index, -1 for ids of no item; null is an empty list.

        Raises:
            ValueError: ids of another type than the items'; names `what`.
        """
        lengths = pc.list_value_length(column).fill_null(0).to_numpy(zero_copy_only=False)
        offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        values = plain(column.flatten())
        if values.type != self._row_of.kind:
            raise ValueError(
                f"{what}: ids of type {column.type.value_type} where those of the items are {self.ids.type}; make them "
                "one type"
            )
        rows = np.full(len(values), -1, np.int64)
        rows[values.is_valid().to_numpy(zero_copy_only=False)] = self._row_of.find(values.drop_null()) - 1
        return Lists(rows, offsets)

    def best(
        self, vectors_BD: np.ndarray, ks_B: Sequence[int], mask: Lists, only_B: Sequence[Allowed | None] = ()
    ) -> Found:
        """Return the best items of each query: as many as it asks for, or all that are left if there are fewer.

        ks_B: how many; mask: items that the query does not get; only_B: what it may get, None being all.
        """
        import faiss

        # The setting is per thread. torch brings an OpenMP of its own: two pools on the same cores wait for each other.
        faiss.omp_set_num_threads(1)
        num_queries = len(vectors_BD)
        only = only_B or [None] * num_queries
        masked = [np.unique(mask.values[start:end]) for start, end in zip(mask.offsets, mask.offsets[1:], strict=False)]
        masked = [rows[rows >= 0] for rows in masked]
        # An approximate search may find others where it looks for more: each query looks for what it needs itself.
        alike: dict[tuple[int, int], list[int]] = {}
        for query in range(num_queries):
            width = min(self.index.ntotal, ks_B[query] + len(masked[query]))
            alike.setdefault((width, id(only[query])), []).append(query)
        found: list[tuple[np.ndarray, np.ndarray]] = [(np.empty(0, np.int64), np.empty(0, np.float32))] * num_queries
        for width, queries in self._in_parts(alike):
            one = only[queries[0]]
            scores_BW, rows_BW = self._search(vectors_BD[queries], width, one, whole=False)
            for query, scores, rows in zip(queries, scores_BW, rows_BW, strict=True):
                found[query] = _kept(rows, scores, masked[query], ks_B[query])
                gone = masked[query] if one is None else masked[query][one.mask[masked[query]]]
                left = (self.num_items if one is None else one.num_items) - len(gone)
                # The cells that an approximate search visits may hold fewer than there are.
                if len(found[query][0]) < min(ks_B[query], left):
                    (all_scores,), (all_rows,) = self._search(vectors_BD[query : query + 1], width, one, whole=True)
                    found[query] = _kept(all_rows, all_scores, masked[query], ks_B[query])
        lengths = [len(rows) for rows, _ in found]
        none: list[tuple[np.ndarray, np.ndarray]] = [(np.empty(0, np.int64), np.empty(0, np.float32))]
        rows_N, scores_N = (np.concatenate(parts) for parts in zip(*(found or none), strict=True))
        return Found(rows_N, scores_N, np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]))

    def _in_parts(self, alike: dict[tuple[int, int], list[int]]) -> Iterator[tuple[int, list[int]]]:
        """Yield widths and queries, as many at once as FAISS compares one by one; products of more round otherwise."""
        most = max(1, _MOST_NUMBERS // self.index.d)
        for (width, _), queries in alike.items():
            for start in range(0, len(queries), most):
                yield width, queries[start : start + most]

    def _search(
        self, vectors_BD: np.ndarray, width: int, only: Allowed | None, *, whole: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """Search in the `whole` index or as far as it was set to; return scores and rows, both [B, width]."""
        if not width:
            return np.empty((len(vectors_BD), 0), np.float32), np.empty((len(vectors_BD), 0), np.int64)
        parameters = None
        if whole or only is not None:
            parameters = _parameters(self.index, None if only is None else only.selector, whole=whole)
        return self.index.search(np.ascontiguousarray(vectors_BD), width, params=parameters)


def plain(ids: pa.Array) -> pa.Array:
    """Return ids as int64 or as texts, whatever their width or form."""
    return ids.cast(pa.int64() if pa.types.is_integer(ids.type) else pa.string())


def _kept(rows: np.ndarray, scores: np.ndarray, masked: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    keep = rows >= 0
    if len(masked):
        keep &= ~np.isin(rows, masked)
    return rows[keep][:k], scores[keep][:k]


def _parameters(index: Any, selector: Any, *, whole: bool) -> Any:
    """Return how to search: with the settings that are stored with the index, or in all of it."""
    import faiss

    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexPreTransform):
        return faiss.SearchParametersPreTransform(index_params=_parameters(index.index, selector, whole=whole))
    if isinstance(index, faiss.IndexIVF):
        return faiss.SearchParametersIVF(nprobe=index.nlist if whole else index.nprobe, sel=selector)
    if isinstance(index, faiss.IndexHNSW):
        return faiss.SearchParametersHNSW(efSearch=index.ntotal if whole else index.hnsw.efSearch, sel=selector)
    return faiss.SearchParameters(sel=selector)
