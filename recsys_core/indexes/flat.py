"""Every vector as it is, and every one compared with every query: exact."""

from typing import Literal

from recsys_core.indexes import _faiss
from recsys_core.indexes._faiss import Index, Layout

__all__ = ["Config", "Index"]


class Config(_faiss.Config):
    """Exact search; its time grows with the items."""

    kind: Literal["flat"] = "flat"

    def layout(self, num_items: int, dim: int) -> Layout:  # noqa: ARG002 - nothing is chosen
        """See `_faiss.Config.layout`."""
        return Layout("Flat", "every vector for every query")
