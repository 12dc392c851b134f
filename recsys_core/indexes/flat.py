"""Every vector as it is, and every one compared with every query: exact."""

from collections.abc import Iterable
from typing import Literal

import numpy as np

from recsys_core.indexes import _faiss
from recsys_core.indexes._faiss import Index, Layout
from recsys_core.indexes.base import Metric

__all__ = ["Config", "Index"]


ITEMS_AT_ONCE = 1 << 20


def search(items_ID: np.ndarray, queries_QD: np.ndarray, k: int, metric: Metric) -> tuple[np.ndarray, np.ndarray]:
    """Return what the search of a flat index of `items_ID` returns, see `base.Index.search`, without making one.

    Items are looked at some at a time: they may be mapped. Where there are fewer than `k`, lists are padded.
    """
    import faiss

    queries_QD = _faiss.normalized(queries_QD) if metric == "cosine" else queries_QD
    by = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT

    def found(start: int) -> tuple[np.ndarray, np.ndarray]:
        some_ID = items_ID[start : start + ITEMS_AT_ONCE]
        some_ID = _faiss.normalized(some_ID) if metric == "cosine" else some_ID
        scores, rows = faiss.knn(queries_QD, some_ID, min(k, len(some_ID)), metric=by)
        return -scores if metric == "l2" else scores, rows + start

    return best(map(found, range(0, len(items_ID), ITEMS_AT_ONCE)), len(queries_QD), k, metric)


def best(
    parts: Iterable[tuple[np.ndarray, np.ndarray]], num_queries: int, k: int, metric: Metric
) -> tuple[np.ndarray, np.ndarray]:
    """Return one list of scores and rows [Q, k] for each query, of the lists that it has in every one of `parts`.

    Equal scores stand as FAISS puts them.
    """
    import faiss

    sign = -1 if metric == "l2" else 1
    kept = faiss.ResultHeap(num_queries, k, keep_max=metric != "l2")
    for scores, rows in parts:
        kept.add_result(sign * scores, rows)
    kept.finalize()
    return sign * kept.D, kept.I


class Config(_faiss.Config):
    """Exact search; its time grows with the items."""

    kind: Literal["flat"] = "flat"

    def layout(self, num_items: int, dim: int) -> Layout:  # noqa: ARG002 - nothing is chosen
        """See `_faiss.Config.layout`."""
        return Layout("Flat", "every vector for every query")
