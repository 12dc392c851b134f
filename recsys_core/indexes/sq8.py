"""Vectors of one byte a number, from each dimension's least to its greatest, every one compared with every query."""

from typing import Literal

from recsys_core.indexes import _faiss
from recsys_core.indexes._faiss import Index, Layout

__all__ = ["Config", "Index"]


class Config(_faiss.Config):
    """A quarter of the memory of `flat`, for scores that are nearly exact."""

    kind: Literal["sq8"] = "sq8"

    def layout(self, num_items: int, dim: int) -> Layout:  # noqa: ARG002 - nothing is chosen
        """See `_faiss.Config.layout`."""
        return Layout("SQ8", "a byte for each number, every vector for every query")
