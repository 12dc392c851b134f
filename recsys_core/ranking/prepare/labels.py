"""Labels and weights of rows, which are looked at before anything is trained on them."""

import contextlib
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys_core import columns, readers
from recsys_core.artifacts.ranking import Predicts
from recsys_core.columns import RowError
from recsys_core.ranking import Config


@contextlib.contextmanager
def naming(where: readers.Place) -> Iterator[None]:
    """Inside, what is refused of a row or a column is said with the place of the rows at hand."""
    try:
        yield
    except RowError as error:
        raise ValueError(f"{where.path}: row {where.first_row + error.row}: {error.reason}") from None
    except ValueError as error:
        raise ValueError(f"{where.path}: {error}") from None


def blocks(reader: readers.Reader, names: list[str]) -> Iterator[pa.Table]:
    """Yield all rows of `reader`, with the columns of these names; without any there are none."""
    for block in range(len(reader.block_rows)) if names else ():
        yield reader.read(block, names)


def positives(where: readers.Place, table: pa.Table, config: Config) -> int:
    """Return how many rows have a label above 0; of several tasks, that of the first one.

    Raises:
        ValueError: a label is not 0 or 1, or no number where values are predicted, or a weight is none; names the row.
    """
    positive: dict[str, np.ndarray] = {}
    for name, task in config.named.items():
        labels = columns.by_chunk(columns.plain, table.column(task.label))
        if pa.types.is_boolean(labels.type):
            labels = labels.cast(pa.int8())
        held = _held(labels, task.predicts) if columns.is_number(labels.type) else None
        words = {"probability": "0 or 1", "value": "a finite number", "amount": "a finite number from 0 on"}
        remedy, rows = f"a label is {words[task.predicts]} ({config.label_key(name)})", config.rows_of(name, positive)
        if held is not None and rows is not None:
            held = pc.or_(held, pc.and_(labels.is_null(), pa.array(~rows)))
            remedy += f", or null where {task.given} is not 1"
        _require(where, labels, held, f"{task.label!r}", remedy)
        least = 0.5 if task.predicts == "probability" else 0
        positive[name] = labels.cast(pa.float64()).fill_null(0).to_numpy() > least
    for column, key in config.weight_columns.items():
        weights = columns.by_chunk(columns.plain, table.column(column))
        held = None
        if columns.is_number(weights.type):
            held = pc.and_(pc.is_finite(weights), pc.greater_equal(weights, pa.scalar(0).cast(weights.type)))
        _require(where, weights, held, f"{column!r}", f"a weight is a number from 0 on ({key})")
    return int(next(iter(positive.values())).sum())


def _held(labels: pa.ChunkedArray, predicts: Predicts) -> pa.ChunkedArray:
    numbers = labels.cast(pa.float64(), safe=False)
    if predicts == "probability":
        return pc.is_in(numbers, value_set=pa.array([0.0, 1.0]))
    # A null is no label, wherever there has to be one.
    numbers = pc.fill_null(numbers, float("nan"))
    finite = pc.is_finite(numbers)
    return finite if predicts == "value" else pc.and_(finite, pc.greater_equal(numbers, 0.0))


def _require(
    where: readers.Place, values: pa.ChunkedArray, held: pa.ChunkedArray | None, name: str, remedy: str
) -> None:
    """Refuse values that do not hold; `held` is None for a type of which none does."""
    if held is None:
        raise ValueError(f"{where.path}: column {name} is {values.type}; {remedy}")
    held = pc.fill_null(held, False)  # noqa: FBT003
    row = pc.index(held, pa.scalar(False)).as_py()  # noqa: FBT003
    if row >= 0:
        start = where.first_row
        raise ValueError(
            f"{where.path}: column {name} holds {values[row].as_py()} in row {start + row} of rows {start} to "
            f"{start + len(values)}; {remedy}"
        )
