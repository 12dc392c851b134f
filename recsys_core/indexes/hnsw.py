"""A graph of neighbours in layers (Malkov and Yashunin 2016), which a search walks towards the query."""

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from recsys_core.indexes import _faiss
from recsys_core.indexes._faiss import Index, Layout

if TYPE_CHECKING:
    import faiss

__all__ = ["Config", "Index"]


class Config(_faiss.Config):
    """Vectors as they are, and for each its neighbours."""

    parameter: ClassVar[str | None] = "ef_search"

    kind: Literal["hnsw"] = "hnsw"
    hnsw_m: int = Field(default=32, ge=2, description="neighbours of an item in the graph")
    ef_construction: int = Field(default=200, ge=1, description="candidates kept while the graph is built")
    ef_search: int = Field(default=256, ge=1, description="candidates kept while it is searched")

    def layout(self, num_items: int, dim: int) -> Layout:  # noqa: ARG002 - the same for all
        """See `_faiss.Config.layout`."""
        return Layout(f"HNSW{self.hnsw_m},Flat", f"{self.hnsw_m} neighbours of each of {num_items:,} items")

    def prepare(self, index: "faiss.Index") -> None:
        """See `_faiss.Config.prepare`."""
        graph = _faiss.inner(index).hnsw
        graph.efConstruction, graph.efSearch = self.ef_construction, self.ef_search
