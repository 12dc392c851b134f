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
    lacks: ClassVar[str] = "a graph of more neighbours (hnsw_m, ef_construction) returns more"

    kind: Literal["hnsw"] = "hnsw"
    hnsw_m: int = Field(default=32, ge=2, description="neighbours of an item in the graph")
    ef_construction: int = Field(default=200, ge=1, description="candidates kept while the graph is built")
    ef_search: int | None = Field(
        default=None, ge=1, description="candidates kept while it is searched; null: the fewest by target_recall"
    )
    target_recall: float | None = Field(
        default=_faiss.TARGET,
        gt=0,
        le=1,
        description=_faiss.TARGET_IS,
    )

    def layout(self, num_items: int, dim: int) -> Layout:  # noqa: ARG002 - the same for all
        """See `_faiss.Config.layout`."""
        return Layout(f"HNSW{self.hnsw_m},Flat", f"{self.hnsw_m} neighbours of each of {num_items:,} items")

    @property
    def value(self) -> int | None:
        """See `base.Config.value`."""
        return self.ef_search

    def prepare(self, index: "faiss.Index") -> None:
        """See `_faiss.Config.prepare`."""
        _faiss.inner(index).hnsw.efConstruction = self.ef_construction
