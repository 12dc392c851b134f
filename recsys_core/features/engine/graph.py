"""Which feature reads which: features that make values are worked out before those that read them, each once."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from recsys_core.columns import RowError, plain
from recsys_core.features.base import Feature

# What does not change what a feature makes of its columns.
_NOT_OF_THE_OPERATION = {"name", "column", "group", "table", "embedding_dim", "pooling", "at_serving"}


class Graph:
    """One side's features. A feature's columns are features that make values, where they are named so, or else data."""

    def __init__(self, features: Sequence[Feature]) -> None:
        """Check that no feature needs itself.

        Raises:
            ValueError: a cycle; names the features on it.
        """
        self._makers = {f.config.name: f for f in features if f.makes_value}
        self._leaves: dict[str, tuple[str, ...]] = {}
        for feature in features:
            self.leaves(feature, ())
        self._values = {id(f): self._operation(f, with_output=False) for f in features}
        self._operations = {id(f): self._operation(f, with_output=True) for f in features}

    def leaves(self, feature: Feature, above: tuple[str, ...] = ()) -> tuple[str, ...]:
        """Return the columns of the data that `feature` needs, in the order of reading."""
        name = feature.config.name
        if name in above:
            cycle = " -> ".join([*above[above.index(name) :], name])
            raise ValueError(f"feature {name!r} needs itself ({cycle}); a column of the same name needs another one")
        if name not in self._leaves:
            found: dict[str, None] = {}
            for column in feature.columns:
                maker = self.maker(feature, column)
                found |= dict.fromkeys([column] if maker is None else self.leaves(maker, (*above, name)))
            self._leaves[name] = tuple(found)
        return self._leaves[name]

    def maker(self, feature: Feature, column: str) -> Feature | None:
        """Return the feature that makes `column` for `feature`, None if it is of the data."""
        return None if column == feature.config.name else self._makers.get(column)

    def operation(self, feature: Feature) -> str:
        """Return a text that is the same for features that make the same of the same columns."""
        return self._operations[id(feature)]

    def value(self, feature: Feature) -> str:
        """Return a text that is the same for features whose values are the same, whatever becomes of these."""
        return self._values[id(feature)]

    def meaning(self, feature: Feature) -> str:
        """Return a text that is the same for features whose outputs a model can take for each other.

        Of a feature with a table, that is where rows of the table come from and how they are pooled, not which rows
        there are, nor how many of a list are read.
        """
        if feature.table is None:
            return json.dumps([self.operation(feature), self.sources(feature)])
        shared = feature.config.model_dump(mode="json", include={"kind", "table", "boundaries"})
        buckets = shared.get("boundaries") if shared.get("table") else None
        how = [feature.table, feature.pooling, feature.weighted, buckets]
        return json.dumps([shared["kind"], self.sources(feature), how])

    def sources(self, feature: Feature) -> str:
        """Return a text that is the same for features that are made of the same values."""
        if feature.makes_value:
            return self.value(feature)
        makers = [self.maker(feature, column) for column in feature.columns]
        return json.dumps(
            [column if m is None else self.value(m) for column, m in zip(feature.columns, makers, strict=True)]
        )

    def _operation(self, feature: Feature, *, with_output: bool) -> str:
        settings: dict[str, Any] = feature.config.model_dump(mode="json", exclude=_NOT_OF_THE_OPERATION)
        output: dict[str, Any] = settings.pop("output", None) or {}
        # A column of the data and a feature may have one name.
        columns = [(column, self.maker(feature, column) is not None) for column in feature.columns]
        used = {key: setting for key, setting in output.items() if key not in _NOT_OF_THE_OPERATION}
        end = used if with_output else output.get("input")
        return json.dumps([settings, columns, end], sort_keys=True)


class Values:
    """The values of one table's rows, made when they are first asked for."""

    def __init__(
        self,
        graph: Graph,
        table: pa.RecordBatch | pa.Table,
        missing: Callable[[Feature, str, list[str]], None],
        fixed: Mapping[str, pa.Array] | None = None,
    ) -> None:
        """`missing` raises an error about a column that the table does not have; `fixed` stand for columns of it."""
        self._graph, self._table, self._missing = graph, table, missing
        self._places: Mapping[str, int] = {name: place for place, name in enumerate(table.schema.names)}
        self._columns: dict[str, pa.Array] = dict(fixed or {})
        self._made: dict[str, pa.Array] = {}

    def of(self, feature: Feature) -> pa.Array:
        """Return what `feature` takes for its value."""
        if not feature.makes_value:
            return self._column(feature, feature.columns[0]) if len(feature.columns) == 1 else self._make(feature)
        key = self._graph.value(feature)
        if key not in self._made:
            self._made[key] = self._make(feature)
        return self._made[key]

    def _make(self, feature: Feature) -> pa.Array:
        columns = [self._column(feature, column) for column in feature.columns]
        try:
            made = feature.value(columns)
        except ValueError as error:
            raise ValueError(
                f"feature {feature.config.name!r}, column {', '.join(feature.columns)!r}: {error}"
            ) from error
        assert len(made) == self._table.num_rows
        return made

    def _column(self, feature: Feature, column: str) -> pa.Array:
        maker = self._graph.maker(feature, column)
        if maker is not None:
            return self.of(maker)
        if column not in self._columns:
            if column not in self._places:
                self._missing(feature, column, self._table.schema.names)
            values = self._table.column(self._places[column])
            if isinstance(values, pa.ChunkedArray):
                values = values.chunk(0) if values.num_chunks == 1 else values.combine_chunks()
            self._columns[column] = plain(values)
        return self._columns[column]


def applied(feature: Feature, values: Values, use: Callable[[pa.Array], Any]) -> Any:
    """Call `use` on the feature's value; an error that refuses it names the feature."""
    value = values.of(feature)
    try:
        return use(value)
    except ValueError as error:
        place = f"feature {feature.config.name!r}, column {', '.join(feature.columns)!r}"
        if isinstance(error, RowError):
            raise RowError(error.row, f"{place}: {error.reason}") from error
        raise ValueError(f"{place}: {error}") from error
