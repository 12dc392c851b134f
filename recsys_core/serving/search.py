"""The items of a bundle: the index over their vectors, of any kind, and which of its rows an item is.

What a query gets depends on nothing but itself: each is searched for alone, as libraries round products of several
otherwise.

Legend: B queries, D embedding, N items of all queries.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys_core import indexes
from recsys_core.features.encoders.row_of import RowOf
from recsys_core.metrics.retrieval import Lists


class Allowed(NamedTuple):
    """The items that a search may find: bool [items], how many they are, and the bits that an index takes."""

    mask: np.ndarray
    num_items: int
    bits: np.ndarray


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
    return Allowed(mask, int(mask.sum()), np.packbits(mask, bitorder="little"))


class Search:
    """An index, and the rows of its items."""

    def __init__(self, index: indexes.Index) -> None:
        """`index.ids` are integers or texts; null for a row that no search finds.

        Raises:
            ValueError: there are more of them than rows, or one is there twice.
        """
        self.index, held = index, index.ids
        if len(held) != index.num_rows:
            raise ValueError(f"id_map.parquet has {len(held):,} items and the index {index.num_rows:,}")
        self.ids: pa.Array = held
        self._is_there = held.is_valid().to_numpy(zero_copy_only=False)
        order = pc.sort_indices(plain(held)).slice(0, len(held) - held.null_count)
        rising = plain(held).take(order)
        twice = pc.equal(rising.slice(1), rising.slice(0, max(0, len(rising) - 1)))
        if pc.any(twice).as_py():
            found = rising[pc.index(twice, value=True).as_py()].as_py()
            raise ValueError(f"id_map.parquet: item {found!r} is there more than once")
        self._can_choose = self._takes_only()
        # Arrow's own look-up would hash all items again for every request.
        self._row_of = RowOf(rising, order.to_numpy().astype(np.int64) + 1)

    @property
    def num_items(self) -> int:
        """How many items there are."""
        return len(self.ids) - self.ids.null_count

    @property
    def dim(self) -> int:
        """The vectors' dimension."""
        return self.index.dim

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
        found = []
        for query, k in enumerate(ks_B):
            masked = np.unique(mask.values[mask.offsets[query] : mask.offsets[query + 1]])
            one = only_B[query] if only_B else None
            found.append(self._best(vectors_BD[query : query + 1], k, masked[masked >= 0], one))
        lengths = [len(rows) for rows, _ in found]
        none = [(np.empty(0, np.int64), np.empty(0, np.float32))]
        rows_N, scores_N = (np.concatenate(parts) for parts in zip(*(found or none), strict=True))
        return Found(rows_N, scores_N, np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]))

    def _best(
        self, vector_1D: np.ndarray, k: int, masked: np.ndarray, only: Allowed | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return rows and scores of one query's items, at most `k`, none of them `masked`."""
        gone = masked if only is None else masked[only.mask[masked]]
        left = (self.num_items if only is None else only.num_items) - len(gone)
        wanted = min(k, left)
        if wanted <= 0:
            return np.empty(0, np.int64), np.empty(0, np.float32)
        # An approximate search may find others where it looks for more: it looks for what this query needs.
        width = min(self.index.num_rows, k + len(masked))
        rows, scores = self._search(vector_1D, width, masked, only, whole=False)
        if len(rows) < wanted:
            # What an approximate search visits may hold fewer than there are.
            rows, scores = self._search(vector_1D, width, masked, only, whole=True)
        if len(rows) < wanted and width < self.index.num_rows:
            rows, scores = self._search(vector_1D, self.index.num_rows, masked, only, whole=True)
        return rows[:k], scores[:k]

    def _search(
        self, vector_1D: np.ndarray, width: int, masked: np.ndarray, only: Allowed | None, *, whole: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """Search in the `whole` index or as far as it was set to; return what is not masked, the best first."""
        bits = None if only is None else only.bits
        if only is not None and not self._can_choose:
            bits, width, whole = None, self.index.num_rows, True
        value = self.index.whole if whole else None
        (scores_W,), (rows_W,) = self.index.search(np.ascontiguousarray(vector_1D), width, value, bits)
        keep = rows_W >= 0
        if self.ids.null_count:
            keep &= self._is_there[rows_W]
        if len(masked):
            keep &= ~np.isin(rows_W, masked)
        if only is not None and bits is None:
            keep &= only.mask[rows_W]
        return rows_W[keep], scores_W[keep]

    def _takes_only(self) -> bool:
        """Whether the index can leave rows out of a search; where it cannot, it is searched whole."""
        bits = np.full((self.index.num_rows + 7) // 8, 255, np.uint8)
        try:
            self.index.search(np.zeros((1, self.index.dim), np.float32), 1, None, bits)
        except RuntimeError:  # FAISS: not of this kind
            return False
        return True


def plain(ids: pa.Array) -> pa.Array:
    """Return ids as int64 or as texts, whatever their width or form."""
    return ids.cast(pa.int64() if pa.types.is_integer(ids.type) else pa.string())
