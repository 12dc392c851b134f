"""Vectors of two bytes a number (float16), every one compared with every query."""

from typing import Literal

from recsys_core.indexes import _faiss
from recsys_core.indexes._faiss import Index, Layout

__all__ = ["Config", "Index"]


class Config(_faiss.Config):
    """Half of the memory of `flat`, for scores of about three digits."""

    kind: Literal["fp16"] = "fp16"

    def layout(self, num_items: int, dim: int) -> Layout:  # noqa: ARG002 - nothing is chosen
        """See `_faiss.Config.layout`."""
        return Layout("SQfp16", "two bytes for each number, every vector for every query")
