"""From loose values by column, as a request has them, to the typed table that an engine transforms."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys_core.features import Encoded, Engine, Side
from recsys_core.features.columns import types
from recsys_core.serving import asked

_LARGEST = float(np.finfo(np.float32).max)


def table(engine: Engine, sides: Sequence[Side], columns: Mapping[str, Iterable[Any]]) -> pa.Table:
    """Return loose values by column (None: unknown) as the table of `sides` that the engine was fitted on.

    Raises:
        ValueError: a column is missing, is none of the model's, or holds what does not fit its type or a number that
            no float32 holds; names the column.
    """
    arrays: dict[str, pa.Array] = {}
    schema = {name: field["type"] for side in sides for name, field in engine.schema(side).items()}
    known = list(dict.fromkeys(name for side in sides for name in engine.columns(side)))
    # Of a column that held nothing while the engine was fitted nothing is known: it may be there or not.
    if extra := [name for name in columns if name not in known]:
        raise ValueError(
            f"column {asked.shown(extra[0])} is none of the model's, which takes {', '.join(schema)}; leave it out"
        )
    for name, kind in schema.items():
        if name not in columns:
            raise ValueError(f"column {name!r} is missing (found {', '.join(columns)}); give null where it is unknown")
        arrays[name] = typed(columns[name], name, types.parse(kind), kind)
    num_rows = len(next(iter(arrays.values()), ()))
    # Its type is not known either.
    arrays |= {name: pa.nulls(num_rows) for name in known if name not in schema}
    return pa.table(arrays)


def typed(values: Iterable[Any], name: str, kind: pa.DataType, wanted: str) -> pa.Array:
    """Return loose values as a column of type `kind`, which a message calls `wanted`.

    Raises:
        ValueError: a value does not fit, or is a number that no float32 holds; one line that names the column.
    """
    try:
        array = types.column(values, kind)
    except ValueError as error:
        raise ValueError(f"column {name!r} takes {wanted}: {asked.first_line(error)}") from None
    numbers = array
    while pa.types.is_list(numbers.type):
        numbers = numbers.flatten()
    if pa.types.is_floating(numbers.type) and pc.any(pc.greater(pc.abs(numbers), _LARGEST)).as_py():
        raise ValueError(
            f"column {name!r} takes {wanted}: a number is beyond ±{_LARGEST:.3g}; give null where it is unknown"
        )
    return array


def refuse_infinite(numbers: np.ndarray, made: str) -> None:
    """Refuse a row of `numbers` ([B] or [B, D]) that the model made no number of; a message calls them `made`."""
    finite = np.isfinite(numbers)
    bad = ~(finite.all(axis=1) if finite.ndim > 1 else finite)
    if bad.any():
        raise ValueError(f"row {int(bad.argmax())}: numbers too large for the model, which makes no {made} of them")


def with_left_out(answers: pa.Table, engine: Engine, encoded: Mapping[Side, Encoded]) -> pa.Table:
    """Add a column `out_of_range`: how many of a row's ids were left out, by feature; none where no feature does."""
    if not (counts := left_out(engine, encoded)):
        return answers
    arrays = [pa.array(one, pa.int64()) for one in counts.values()]
    return answers.append_column("out_of_range", pa.StructArray.from_arrays(arrays, names=[*counts]))


def left_out(engine: Engine, encoded: Mapping[Side, Encoded]) -> dict[str, np.ndarray]:
    """Return how many of each row's ids were left out, by feature that does so."""
    counts: dict[str, np.ndarray] = {}
    for side, rows in encoded.items():
        for name in engine.dropping(side):
            dropped = rows.sparse[name].left_out
            counts[name] = np.zeros(rows.num_rows, np.int32) if dropped is None else dropped
    return counts
