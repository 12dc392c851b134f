"""Vectors as codes of some bytes (product quantisation, Jégou et al. 2011), in cells as those of `ivf_flat`."""

from typing import ClassVar, Literal

from pydantic import Field

from recsys_core.indexes import _faiss
from recsys_core.indexes._faiss import Index, Layout
from recsys_core.indexes.ivf_flat import num_cells

__all__ = ["Config", "Index"]


class Config(_faiss.InCells):
    """Codes in cells: a fraction of the memory, for scores that are not exact."""

    lacks: ClassVar[str] = "codes of more bytes (pq_m), or ivf_flat, return more"

    kind: Literal["ivf_pq"] = "ivf_pq"
    nlist: int | None = Field(
        default=None, ge=1, description="number of cells; null: 4·√items, and at least 39 items for each"
    )
    pq_m: int | None = Field(
        default=None, ge=1, description="parts of a vector's code, a divisor of its length; null: half of its length"
    )
    pq_bits: int = Field(default=8, ge=4, le=8, description="bits of each part of a code; 8 make it a byte")
    target_recall: float | None = Field(
        default=None, gt=0, le=1, description="ANN recall to reach; null: 99 % of what all cells give"
    )

    def layout(self, num_items: int, dim: int) -> Layout:
        """See `_faiss.Config.layout`.

        Raises:
            ValueError: `pq_m` divides no vector of this length.
        """
        cells, reason = num_cells(self.nlist, num_items)
        divisors = [number for number in range(1, dim + 1) if dim % number == 0]
        if self.pq_m is not None and self.pq_m not in divisors:
            raise ValueError(
                f"index.pq_m: {self.pq_m} does not divide the {dim} numbers of a vector; "
                f"use one of {', '.join(map(str, divisors))}"
            )
        size = self.pq_m or max(number for number in divisors if number <= max(1, dim // 2))
        num_bytes = -(-size * self.pq_bits // 8)
        return Layout(f"IVF{cells},PQ{size}x{self.pq_bits}", f"{reason}, {num_bytes} bytes for {4 * dim}")

    @property
    def num_training_rows(self) -> int:
        """See `_faiss.Config.num_training_rows`."""
        return 1 << self.pq_bits
