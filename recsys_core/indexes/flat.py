"""Every vector as it is, and every one compared with every query: exact."""

from typing import Literal

import numpy as np

from recsys_core.indexes import _faiss
from recsys_core.indexes._faiss import Index, Layout
from recsys_core.indexes.base import Metric

__all__ = ["Config", "Index"]


_ITEMS_AT_ONCE = 1 << 20


def search(items_ID: np.ndarray, queries_QD: np.ndarray, k: int, metric: Metric) -> tuple[np.ndarray, np.ndarray]:
    """Return what the search of a flat index of `items_ID` returns, see `base.Index.search`, without making one.

    Items are looked at some at a time: they may be mapped. There are at least `k` of them.
    """
    import faiss

    queries_QD = _faiss.normalized(queries_QD) if metric == "cosine" else queries_QD
    best = faiss.ResultHeap(len(queries_QD), k, keep_max=metric != "l2")
    for start in range(0, len(items_ID), _ITEMS_AT_ONCE):
        some_ID = items_ID[start : start + _ITEMS_AT_ONCE]
        some_ID = _faiss.normalized(some_ID) if metric == "cosine" else some_ID
        by = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
        scores, rows = faiss.knn(queries_QD, some_ID, min(k, len(some_ID)), metric=by)
        best.add_result(scores, rows + start)
    best.finalize()
    return -best.D if metric == "l2" else best.D, best.I


class Config(_faiss.Config):
    """Exact search; its time grows with the items."""

    kind: Literal["flat"] = "flat"

    def layout(self, num_items: int, dim: int) -> Layout:  # noqa: ARG002 - nothing is chosen
        """See `_faiss.Config.layout`."""
        return Layout("Flat", "every vector for every query")
