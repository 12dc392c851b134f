"""Whatever a factory string of FAISS describes, such as `OPQ16,IVF1024,PQ16` or `HNSW32,SQ8`."""

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from recsys_core.indexes import _faiss
from recsys_core.indexes._faiss import Index, Layout

if TYPE_CHECKING:
    import faiss

__all__ = ["Config", "Index"]

_TRAINING_ROWS = 1_024


class Config(_faiss.Config):
    """FAISS's factory string as it is."""

    parameter: ClassVar[str | None] = "nprobe or ef_search"

    kind: Literal["factory"] = "factory"
    factory: str = Field(min_length=1, description="the string; its parts are in FAISS's documentation")
    nprobe: int | None = Field(default=None, ge=1, description="of cells: how many are visited; null: by target_recall")
    ef_search: int | None = Field(default=None, ge=1, description="of a graph: candidates kept; null: by target_recall")
    target_recall: float | None = Field(
        default=None, gt=0, le=1, description="ANN recall to reach; null: 99 % of what a search of all gives"
    )

    def layout(self, num_items: int, dim: int) -> Layout:  # noqa: ARG002 - the string says it all
        """See `_faiss.Config.layout`."""
        return Layout(self.factory, "as factory says")

    @property
    def value(self) -> int | None:
        """See `base.Config.value`."""
        return self.nprobe or self.ef_search

    @property
    def num_training_rows(self) -> int:
        """See `_faiss.Config.num_training_rows`."""
        return _TRAINING_ROWS

    def prepare(self, index: "faiss.Index") -> None:
        """See `_faiss.Config.prepare`.

        Raises:
            ValueError: what is set is nothing that the index has.
        """
        found = _faiss.parameter(index)
        for name in ("nprobe", "ef_search"):
            if getattr(self, name) is not None and name != found:
                raise ValueError(
                    f"index.{name}: {self.factory} has {found or 'nothing of the kind'}; remove it (set it to null)"
                )
