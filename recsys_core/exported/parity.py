"""What is checked before a module leaves: that scripted equals eager, on real rows."""

from pathlib import Path

import pyarrow as pa
from torch import Tensor

from recsys_core import readers


def first_rows(directory: Path, num_rows: int) -> pa.Table:
    """Return the first rows of a folder, as many as there are up to `num_rows`."""
    return readers.read_all(readers.opened(directory), num_rows=num_rows)


def parity(what: str, found: Tensor, expected: Tensor, tolerance: float) -> float:
    """Return the largest difference.

    Raises:
        ValueError: it is more than `tolerance`.
    """
    difference = float((found - expected).abs().max())
    if not difference <= tolerance:
        raise ValueError(
            f"the scripted {what} differs from the checkpoint by {difference:.3g} on real rows, more than "
            f"export.parity_tolerance={tolerance:g}; nothing was exported"
        )
    return difference
