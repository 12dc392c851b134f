"""What is checked before a module leaves: that scripted equals eager, on real rows."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from recsys_core import readers
from recsys_core.artifacts import Checkpoint, LabelledData, TrainingData
from recsys_core.features import Side


def first_rows(directory: Path, num_rows: int) -> pa.Table:
    """Return the first rows of a folder, as many as there are up to `num_rows`."""
    return readers.read_all(readers.opened(directory), num_rows=num_rows)


def kept_rows(made: Checkpoint, side: Side, num_rows: int) -> pa.Table:
    """Return the first rows that a training kept of its own, their columns of one side.

    Raises:
        ValueError: it kept none.
    """
    path = made.sample(side)
    rows = pq.read_table(path).slice(0, num_rows) if path.is_file() else None
    if not rows:
        raise ValueError(
            f"{made.path}: no rows are kept there, on which what is exported could be compared; name the data that it "
            "was trained on"
        )
    return rows


def engine_of(engine: Path | None, data: TrainingData | LabelledData | None, made: Checkpoint) -> Path:
    """Return the folder of the fitted features: the one that is given, else that of the data, or of the training."""
    return engine or (made.engine if data is None else data.engine)


def parity(what: str, found: Tensor, expected: Tensor, tolerance: float) -> float:
    """Return the largest difference.

    Raises:
        ValueError: it is more than `tolerance`.
    """
    difference = float((found - expected).abs().max())
    if not difference <= tolerance:
        raise ValueError(
            f"the exported {what} differs from the checkpoint by {difference:.3g} on real rows, more than "
            f"export.parity_tolerance={tolerance:g}; nothing was exported"
        )
    return difference
