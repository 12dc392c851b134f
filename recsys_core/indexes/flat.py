"""Every vector as it is, and every one compared with every query: exact."""

from typing import Literal

import numpy as np

from recsys_core.indexes import _faiss
from recsys_core.indexes._faiss import Index, Layout
from recsys_core.indexes.base import Metric

__all__ = ["Config", "Index"]


def search(items_ID: np.ndarray, queries_QD: np.ndarray, k: int, metric: Metric) -> tuple[np.ndarray, np.ndarray]:
    """Return what the search of a flat index of `items_ID` returns, see `base.Index.search`, without making one."""
    import faiss

    if metric == "cosine":
        items_ID, queries_QD = _faiss.normalized(items_ID), _faiss.normalized(queries_QD)
    by = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
    scores, rows = faiss.knn(queries_QD, items_ID, k, metric=by)
    return -scores if metric == "l2" else scores, rows


class Config(_faiss.Config):
    """Exact search; its time grows with the items."""

    kind: Literal["flat"] = "flat"

    def layout(self, num_items: int, dim: int) -> Layout:  # noqa: ARG002 - nothing is chosen
        """See `_faiss.Config.layout`."""
        return Layout("Flat", "every vector for every query")
