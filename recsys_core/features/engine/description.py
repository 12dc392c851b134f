"""What a feature is, in the words of a table that a person reads, and what it makes of some rows."""

import datetime
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from recsys_core.artifacts import Frozen
from recsys_core.features.base import Feature, Jagged, Side
from recsys_core.features.engine.graph import Graph, Values, applied
from recsys_core.features.engine.tables import TableSpec

_BYTES_PER_WEIGHT = {"float32": 4, "float16": 2, "bfloat16": 2}


class Description(Frozen):
    """One feature.

    `columns` are of the data, those of the features that it reads included. `cardinality` is how many rows its table
    has, `known` how many ids have a row of their own. `num_bytes` are those of the table's weights, without
    what an optimizer keeps; None for a feature that shares the table of another one before it. `fitted` is None where
    there is nothing to learn. `same_as` names an earlier feature whose result is taken, being the same.
    """

    name: str
    side: Side
    kind: str
    output: str | None
    encoding: str | None
    columns: tuple[str, ...]
    cardinality: int | None
    known: int | None
    default: str | int | float | None
    pooling: str | None
    table: str | None
    dim: int
    num_bytes: int | None
    fitted: bool | None
    encoded_upstream: bool
    same_as: str | None


class Example(Frozen):
    """What a feature makes of rows: `before` by column, `after` numbers or rows of its table, one entry for each row.

    `missing` names columns that the rows do not have, `refused` says why the feature does not take them; there is no
    `after` then.
    """

    before: dict[str, tuple[Any, ...]] = Field(default_factory=dict)
    after: tuple[Any, ...] = ()
    missing: tuple[str, ...] = ()
    refused: str | None = None


def describe(
    feature: Feature, side: Side, graph: Graph, table: TableSpec | None, *, owns: bool, same_as: str | None
) -> Description:
    """Describe a feature; `table` is where its ids are rows, `owns` whether it is the first feature to use that."""
    config = feature.config
    # What a derived feature is used as has the keys of a kind of its own.
    used = getattr(config, "output", None) if feature.makes_value else config
    default = next((d for d in (getattr(used, "default", None), getattr(used, "fill", None)) if d is not None), None)
    known = ((feature.encoder.report() or {}) if feature.encoder else {}).get("known")
    return Description(
        name=config.name,
        side=side,
        kind=str(getattr(config, "kind", "")),
        output=None if used is None else str(getattr(used, "kind", "")),
        encoding=None if feature.encoder is None else str(feature.encoder.spec["encoding"]),
        columns=graph.leaves(feature),
        cardinality=None if table is None else table.num_embeddings,
        known=known if feature.fitted else None,
        default=default if table is None or getattr(used, "default", None) is not None else None,
        pooling="none" if feature.sequence_dim else None if table is None else feature.pooling,
        table=None if table is None else table.name,
        dim=feature.dense_dim + feature.sequence_dim if table is None else table.embedding_dim,
        num_bytes=None if table is None or not owns else size_of(table),
        fitted=feature.fitted,
        encoded_upstream=getattr(used, "input", "raw") == "encoded",
        same_as=same_as,
    )


def size_of(table: TableSpec) -> int:
    """Bytes of a table's weights."""
    return table.num_embeddings * table.embedding_dim * _BYTES_PER_WEIGHT[table.dtype]


def example(
    feature: Feature, graph: Graph, table: pa.Table, missing: Callable[[Feature, str, list[str]], None]
) -> Example:
    """Show what the feature makes of all rows of `table`."""
    columns = graph.leaves(feature)
    absent = tuple(column for column in columns if column not in table.schema.names)
    if absent:
        return Example(missing=absent)
    before = {column: tuple(_plain(value) for value in table.column(column).to_pylist()) for column in columns}
    try:
        values = Values(graph, table, missing)
        after = (
            _rows(applied(feature, values, feature.transform)) if feature.is_output else values.of(feature).to_pylist()
        )
    except ValueError as error:
        return Example(before=before, refused=str(error))
    return Example(before=before, after=tuple(_plain(one) for one in after))


def _rows(made: np.ndarray | Jagged) -> list[Any]:
    if isinstance(made, Jagged):
        parts = np.split(made.values, np.cumsum(made.lengths)[:-1]) if len(made.lengths) else []
        return [part.tolist() if part.ndim == 1 else _numbers(part) for part in parts]
    return _numbers(made)


def _numbers(rows: np.ndarray) -> list[Any]:
    return [row[0] if len(row) == 1 else row for row in rows.astype(np.float32).tolist()]


def _plain(value: Any) -> Any:
    """Return a value as JSON has it."""
    if isinstance(value, (list, tuple)):
        return tuple(_plain(one) for one in value)
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (datetime.date, datetime.datetime)):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, float):
        return value if np.isfinite(value) else str(value)
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)
