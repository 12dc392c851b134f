"""Vectors in cells around the centres of k-means (inverted file), of which a query visits the closest ones."""

import math
from typing import Literal

from pydantic import Field

from recsys_core.indexes import _faiss
from recsys_core.indexes._faiss import Index, Layout

__all__ = ["Config", "Index"]

# FAISS's own lower bound for k-means: fewer training vectors per cell make cells of one or two items.
_MIN_ITEMS_PER_CELL = 39


class Config(_faiss.InCells):
    """Vectors as they are, in cells."""

    kind: Literal["ivf_flat"] = "ivf_flat"
    nlist: int | None = Field(
        default=None, ge=1, description="number of cells; null: 4·√items, and at least 39 items for each"
    )

    def layout(self, num_items: int, dim: int) -> Layout:  # noqa: ARG002 - cells are of items
        """See `_faiss.Config.layout`."""
        cells, reason = num_cells(self.nlist, num_items)
        return Layout(f"IVF{cells},Flat", reason)


def num_cells(nlist: int | None, num_items: int) -> tuple[int, str]:
    """Return the number of cells for `num_items` items, and why: `nlist`, if there are at least that many items."""
    if nlist is not None:
        if nlist > num_items:
            return num_items, f"nlist {nlist:,} is more than the {num_items:,} items, so that each has a cell"
        return nlist, f"as nlist says, {num_items / nlist:,.0f} items in a cell"
    by_root, by_size = 4 * math.isqrt(num_items), num_items // _MIN_ITEMS_PER_CELL
    cells = max(1, min(by_root, by_size))
    why = "4·√items" if by_root <= by_size else f"at least {_MIN_ITEMS_PER_CELL} items in a cell"
    return cells, f"{cells:,} cells for {num_items:,} items ({why})"
