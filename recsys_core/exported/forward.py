"""What an exported module makes of a table's rows: the columns it reads, and those it adds. Legend: B rows."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from recsys_core.artifacts import ExportedModel, ExportedRanker
from recsys_core.exported import modules
from recsys_core.exported.inputs import ranker_inputs, tower_inputs
from recsys_core.exported.predictions import predictions
from recsys_core.features import Engine, RowError, Side, counting_from
from recsys_core.loading.prefetch import half_of_the_cores, prefetch
from recsys_core.loading.rank_batches import Rows
from recsys_core.readers import Reader

_SIDES: tuple[Side, Side] = ("query", "item")


class Forward(ABC):
    """An exported module with its features.

    Attributes:
        engine: the fitted features.
        columns: what is read of a row.
        fields: what is added to it.
    """

    def __init__(self, engine: Engine, sides: Sequence[Side], module: modules.Module, fields: list[pa.Field]) -> None:
        """`sides` are those whose features are read."""
        self.engine, self.fields, self._module = engine, fields, module
        self.columns = list(dict.fromkeys(column for side in sides for column in engine.columns(side)))

    @abstractmethod
    def inputs(self, rows: pa.RecordBatch) -> dict[str, Tensor]:
        """Encode rows as the module takes them; threads may do this ahead.

        Raises:
            ValueError: a column holds what its feature cannot take.
        """

    @abstractmethod
    def added(self, inputs: dict[str, Tensor]) -> list[pa.Array]:
        """Return the values of `fields`."""


class Tower(Forward):
    """One tower: `embedding`, a vector of float32."""

    def __init__(self, model: ExportedModel, side: Side, engine: Engine | None = None) -> None:
        """Load the tower of `side`; `engine` are its features, if they have been loaded before."""
        vector = pa.field("embedding", pa.list_(pa.float32(), model.embedding_dim))
        folder = model.query if side == "query" else model.item
        super().__init__(engine or Engine.load(model.engine), (side,), modules.load(folder), [vector])
        self._side: Side = side

    def inputs(self, rows: pa.RecordBatch) -> dict[str, Tensor]:
        """See `Forward.inputs`."""
        return tower_inputs(self.engine.transform(rows, self._side))

    def added(self, inputs: dict[str, Tensor]) -> list[pa.Array]:
        """See `Forward.added`."""
        with torch.no_grad():
            vectors_BD: np.ndarray = self._module(inputs).numpy()
        flat = pa.array(np.ascontiguousarray(vectors_BD, np.float32).reshape(-1))
        return [pa.FixedSizeListArray.from_arrays(flat, vectors_BD.shape[1])]


class Scorer(Forward):
    """A ranker: each task's output, then what it predicts: the probability or the value."""

    def __init__(self, model: ExportedRanker) -> None:
        """Load it."""
        self._predicted = model.predicted
        fields = [pa.field(name, pa.float32()) for names in model.columns for name in names]
        super().__init__(Engine.load(model.engine), _SIDES, modules.load(model.path), fields)

    def inputs(self, rows: pa.RecordBatch) -> dict[str, Tensor]:
        """See `Forward.inputs`."""
        return ranker_inputs(*(self.engine.transform(rows, side) for side in _SIDES))

    def added(self, inputs: dict[str, Tensor]) -> list[pa.Array]:
        """See `Forward.added`."""
        with torch.no_grad():
            logits = self._module(inputs)
        found: list[pa.Array] = []
        for output_B, predicts in zip(logits.reshape(len(logits), -1).unbind(1), self._predicted, strict=True):
            found += [pa.array(output_B.numpy(), pa.float32()), pa.array(predictions(output_B, predicts), pa.float32())]
        return found


def added(
    rows: Iterator[Rows], reader: Reader, forward: Forward, kept: Sequence[str], names: Sequence[str | None]
) -> Iterator[tuple[pa.Table, Rows]]:
    """Yield each batch's columns `kept`, with those that `forward` adds by `names` (None: left out), and the batch.

    Batches are encoded ahead by threads.

    Raises:
        ValueError: a feature cannot take what a row holds; names the file and the row.
    """

    def encoded(some: Rows) -> tuple[Rows, dict[str, Tensor]]:
        try:
            with counting_from(some.number):
                return some, forward.inputs(some.batch)
        except RowError:
            raise
        except ValueError as error:
            first = reader.locate(some.number(0))
            count = some.batch.num_rows
            raise ValueError(f"{first.path}: of {count} rows from row {first.first_row} on: {error}") from None

    try:
        for some, inputs in prefetch(rows, encoded, num_threads=half_of_the_cores()):
            table = some.table.select(list(kept))
            for name, values in zip(names, forward.added(inputs), strict=True):
                if name is not None:
                    table = table.append_column(name, values)
            yield table, some
    except RowError as error:
        place = reader.locate(error.row)
        raise ValueError(f"{place.path}: row {place.first_row}: {error.reason}") from None


def check(
    source: str, schema: pa.Schema, needed: Sequence[str], kept: Sequence[str], added: Sequence[str], key: str
) -> None:
    """Compare a table's columns with those that are read, and those that are added.

    Raises:
        ValueError: it lacks one, or has one of a name that is added; `key` names the kept columns in messages.
    """
    if missing := [column for column in dict.fromkeys([*needed, *kept]) if column not in schema.names]:
        raise ValueError(
            f"{source}: no column {', '.join(missing)}, which the model's features or {key} need "
            f"(it has {', '.join(schema.names)})"
        )
    if taken := [name for name in added if name in kept]:
        raise ValueError(f"{source}: already has a column {taken[0]!r}; name the others in {key}, or rename it")
