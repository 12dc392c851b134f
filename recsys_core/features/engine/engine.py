"""The feature engine: one configured set of features, fitted."""

import io
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Self, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from pydantic import Field, PositiveInt, TypeAdapter, model_validator

from recsys_core.artifacts import HISTORY, Frozen, digest_of
from recsys_core.features.base import (
    Encoded,
    Feature,
    FeatureConfig,
    Jagged,
    NumberFeature,
    Side,
    SparseFeature,
)
from recsys_core.features.columns import types as _types
from recsys_core.features.engine import fixed, sharing, transform
from recsys_core.features.engine import groups as _groups
from recsys_core.features.engine.carried import same_ids
from recsys_core.features.engine.counting import counting_from
from recsys_core.features.engine.description import Description, Example, describe, example
from recsys_core.features.engine.graph import Graph, Values, applied
from recsys_core.features.engine.names import unknown
from recsys_core.features.engine.tables import TableConfig, TableSpec
from recsys_core.integrity import first_line, read_json, validated
from recsys_core.lookup import OneOf, component

_CATALOGUE = "recsys_core.features"
_STATE = "engine.json"
_MAX_THREADS = 4
_Columns = Iterable[pa.RecordBatch | pa.Table]


_FeatureConfig = Annotated[FeatureConfig, OneOf(_CATALOGUE)]


class Config(Frozen):
    """YAML section `features`: what the query tower and the item tower read.

    `embedding_dim` is the width of every table that does not say otherwise. `groups` are a shorthand: their features
    are added to their side's, and none are left.
    """

    embedding_dim: PositiveInt
    query: tuple[_FeatureConfig, ...]
    item: tuple[_FeatureConfig, ...]
    groups: tuple[_groups.Group, ...] = ()
    tables: tuple[TableConfig, ...] = Field(default=(), description="settings of embedding tables")

    @model_validator(mode="before")
    @classmethod
    def _expand(cls, section: Any) -> Any:
        if not isinstance(section, dict) or not section.get("groups"):
            return section
        written: dict[Side, Any] = {side: section.get(side) for side in get_args(Side)}
        if not all(isinstance(features, list | tuple) for features in written.values()):
            return section
        groups = TypeAdapter(tuple[_groups.Group, ...]).validate_python(section["groups"])
        one = TypeAdapter(_FeatureConfig)
        sides = {
            side: [*features, *(_groups.member(one, member) for member in _groups.expanded(groups, side))]
            for side, features in written.items()
        }
        return section | sides | {"groups": ()}

    @model_validator(mode="after")
    def _builds(self) -> Self:
        Engine.build(self)
        return self


class Engine:
    """A configured set of features, with what it learnt from the data.

    Attributes:
        config: what it was built from.
        features: by side, in the config's order.
        encoders: by table.
        at_serving: what columns hold wherever the model is asked, by name.
        tables: the embedding tables, in the order in which the features first name them, query side first.
    """

    def __init__(self, config: Config) -> None:
        """Use `build` or `load`."""
        self.config = config
        self.features: dict[Side, list[Feature]] = {
            "query": [_named(feature, "query") for feature in config.query],
            "item": [_named(feature, "item") for feature in config.item],
        }
        self._types: dict[str, dict[str, str]] = {"query": {}, "item": {}}
        self.num_threads = min(len(os.sched_getaffinity(0)), _MAX_THREADS)
        sharing.refuse_duplicates(self.features)
        self._graphs = {side: Graph(features) for side, features in self.features.items()}
        self.at_serving = fixed.values(self.features, self._graphs)
        self.encoders = sharing.share_encoders(self._all())
        # Features of one operation and one table are transformed once.
        self._keys = {
            feature.config.name: f"{self._graphs[side].operation(feature)} {feature.table} {feature.sequence_dim}"
            for side, features in self.features.items()
            for feature in features
        }
        self.tables = self._table_specs()

    @classmethod
    def build(cls, config: Config, base: "Engine | None" = None) -> Self:
        """Make an engine, continuing from what `base` has learnt where both have the same feature or table.

        An id that had a row keeps it if there is such a row; what else differs is learnt anew: see `carried`.

        Raises:
            ValueError: names are not unique, a `table` belongs to no feature, features that share a table disagree,
                or a table has more rows in `base` than it may have here and cannot be made smaller.
        """
        engine = cls(config)
        if base is not None:
            engine._continue(base)
        return engine

    def fit(self, query: _Columns, item: _Columns, *, partly: bool = False) -> None:
        """Learn from all rows given, on top of what is known. Chunks are read once, query first.

        With `partly`, only features that are not fitted yet learn, from the chunks that have their columns.
        """
        sides: tuple[tuple[Side, _Columns], ...] = (("query", query), ("item", item))
        for side, chunks in sides:
            num_before = 0
            for chunk in chunks:
                values = Values(self._graphs[side], chunk, _missing)
                there = set(chunk.schema.names)
                with counting_from(num_before):
                    for feature in self.features[side]:
                        has_columns = there.issuperset(self._graphs[side].leaves(feature))
                        if not partly or (feature.fitted is False and has_columns):
                            applied(feature, values, feature.observe)
                num_before += chunk.num_rows
                for column in self.training_columns(side):
                    if partly and column not in there:
                        continue
                    kind = chunk.schema.field(column).type
                    if not pa.types.is_null(kind):
                        self._types[side][column] = _types.name_of(kind)
        for encoder in self.encoders.values():
            encoder.settle()
        for feature in self._all():
            feature.settle()
        self.tables = self._table_specs()
        fixed.refuse_unfit(self.features, self._graphs, self.at_serving, self._types)

    def transform(self, table: pa.RecordBatch | pa.Table, side: Side, *, training: bool = False) -> Encoded:
        """Encode the rows of `table`, which has at least the side's columns; dense numbers in the config's order.

        Columns that have a value `at_serving` hold that, but for `training`.

        Raises:
            ValueError: a column is missing, or holds what its feature cannot take; names feature and column.
        """
        dense = np.empty((table.num_rows, self.dense_dim(side)), dtype=np.float32)
        sparse: dict[str, Jagged] = {}
        numbers: dict[str, Jagged] = {}
        held = {} if training else fixed.columns(self.at_serving, self._types[side], table.num_rows)
        values = Values(self._graphs[side], table, _missing, held)
        todo = {self._keys[f.config.name]: f for f in self.features[side] if f.is_output}
        results = transform.results(todo, values, table.num_rows, self.num_threads)
        transform.refuse_uneven(self.features[side], results, self._keys)
        filled = 0
        for feature in self.features[side]:
            result = results[self._keys[feature.config.name]] if feature.is_output else None
            if isinstance(result, Jagged):
                (numbers if feature.sequence_dim else sparse)[feature.config.name] = result
            elif result is not None:
                dense[:, filled : filled + feature.dense_dim] = result
                filled += feature.dense_dim
        return Encoded(table.num_rows, dense, sparse, numbers)

    def columns(self, side: Side) -> list[str]:
        """Name the columns that the model is asked with, each once, in the config's order."""
        return [column for column in self.training_columns(side) if column not in self.at_serving]

    def training_columns(self, side: Side) -> list[str]:
        """Name the columns that training reads: those with a value `at_serving` too."""
        graph = self._graphs[side]
        return list(dict.fromkeys(column for feature in self.features[side] for column in graph.leaves(feature)))

    def columns_of_ids(self) -> list[str]:
        """Name the columns of the data, of both sides, that features take as ids as they are."""
        readers = [(self._graphs[side], feature) for side, features in self.features.items() for feature in features]
        names = [f.columns[0] for graph, f in readers if f.reads_ids and graph.maker(f, f.columns[0]) is None]
        return list(dict.fromkeys(names))

    def schema(self, side: Side, *, training: bool = False) -> dict[str, dict[str, str]]:
        """Return {"type": name} of each column that a fit has seen; see `_types` for the names."""
        types, names = self._types[side], self.training_columns(side) if training else self.columns(side)
        return {column: {"type": types[column]} for column in names if column in types}

    def histories(self) -> tuple[str, ...]:
        """Name the query's columns that hold one value for each item of a history; of a column of lists, any number.

        Of what no feature of the items reads the type is not known: it is left out.
        """
        types = {"item_id": "int64"} | self._types["item"]
        items = {column: column.removeprefix(HISTORY) for column in self.columns("query") if column.startswith(HISTORY)}
        return tuple(
            column for column, item in items.items() if item in types and not types[item].startswith(("list<", "map<"))
        )

    def dense_dim(self, side: Side) -> int:
        """Return F, how many dense numbers a row of this side has."""
        return sum(feature.dense_dim for feature in self.features[side])

    def dense_features(self, side: Side) -> tuple[NumberFeature, ...]:
        """Return this side's features of numbers, in the order of the dense fields."""
        return tuple(NumberFeature(f.config.name, f.dense_dim) for f in self.features[side] if f.dense_dim)

    def number_sequences(self, side: Side) -> tuple[NumberFeature, ...]:
        """Return this side's sequences of numbers, in the config's order."""
        return tuple(NumberFeature(f.config.name, f.sequence_dim) for f in self.features[side] if f.sequence_dim)

    def sparse_features(self, side: Side) -> tuple[SparseFeature, ...]:
        """Return this side's features of ids, in the config's order."""
        return tuple(
            SparseFeature(feature.config.name, feature.table, feature.pooling, feature.tile_length, feature.weighted)
            for feature in self.features[side]
            if feature.table is not None
        )

    @property
    def report(self) -> dict[str, dict[str, int]]:
        """By feature with a vocabulary: ids known, ids seen but out_of_vocabulary, and the table's capacity for ids."""
        full: dict[str, dict[str, int]] = {}
        for feature in self._all():
            figures = (feature.encoder.report() or {} if feature.encoder else {}) | feature.report()
            if figures:
                full[feature.config.name] = figures
        return full

    def out_of_range(self) -> dict[str, int]:
        """How many encoded ids each feature that drops them has left out, since the engine was made or loaded."""
        figures = {feature.config.name: feature.report().get("out_of_range") for feature in self._all()}
        return {name: count for name, count in figures.items() if count is not None}

    def dropping(self, side: Side) -> tuple[str, ...]:
        """Name this side's features that leave such ids out."""
        return tuple(f.config.name for f in self.features[side] if "out_of_range" in f.report())

    def describe(self) -> tuple[Description, ...]:
        """Describe every feature, in the config's order, query side first."""
        seen: dict[str, str] = {}
        tables = {table.name: table for table in self.tables}
        made: list[Description] = []
        for side, features in self.features.items():
            for feature in features:
                name, key = feature.config.name, f"{side} {self._keys[feature.config.name]}"
                table = tables[feature.table] if feature.table is not None else None
                owns = table is not None and table.features[0][0] == name
                first = seen.setdefault(key, name)
                same_as = None if first == name else first
                made.append(describe(feature, side, self._graphs[side], table, owns=owns, same_as=same_as))
        return tuple(made)

    def examples(self, table: pa.Table, side: Side) -> dict[str, Example]:
        """Show what each feature of a side makes of the rows of `table`, which may lack columns."""
        return {f.config.name: example(f, self._graphs[side], table, _missing) for f in self.features[side]}

    def portable_config(self) -> Config:
        """The config as it is saved, without files that may not be there where the engine is loaded."""
        sides = {side: tuple(f.portable() for f in features) for side, features in self.features.items()}
        return self.config.model_copy(update=sides)

    @property
    def figures(self) -> dict[str, float]:
        """How well each table serves its ids: `tables/<table>/occupancy`, `…/collision_rate` and the like."""
        return {
            f"tables/{name}/{figure}": value
            for name, encoder in self.encoders.items()
            for figure, value in encoder.figures().items()
        }

    def meanings(self) -> dict[str, str]:
        """Return, by feature that a model reads, a text that is the same where what it reads means the same."""
        return {
            feature.config.name: f"{side} {self._graphs[side].meaning(feature)}"
            for side, features in self.features.items()
            for feature in features
            if feature.is_output
        }

    def sources(self) -> dict[str, str]:
        """Return, by feature, a text that is the same where it is made of the same values."""
        return {f.config.name: self._graphs[side].sources(f) for side, own in self.features.items() for f in own}

    def owners(self) -> dict[str, np.ndarray]:
        """Return, of each table whose rows may change hands, int64 [K, 2]: rows, and the ids they belong to now."""
        found = {name: encoder.owners() for name, encoder in self.encoders.items()}
        return {name: owners for name, owners in found.items() if owners is not None}

    @property
    def digest(self) -> str:
        """Digest of the saved form: engines of the same digest transform alike."""
        return digest_of({name: xxhash.xxh3_128_hexdigest(content) for name, content in self._files().items()})

    def save(self, directory: Path) -> None:
        """Write the engine's files into `directory`; the same engine writes the same bytes."""
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in self._files().items():
            (directory / name).write_bytes(content)

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Read back what `save` wrote.

        Raises:
            ValueError: there is no engine in `directory`, or it is damaged.
        """
        if not (directory / _STATE).is_file():
            raise ValueError(f"{directory}: no {_STATE}, so no feature engine; give the folder of a saved one")
        try:
            saved = read_json(directory / _STATE)
            engine = cls(validated(Config, saved["config"], str(directory / _STATE)))
            engine._types = saved["types"]
            for feature in engine._all():
                feature.restore(saved["features"][feature.config.name])
            for table in saved["tables"]:
                engine.encoders[table].restore(pq.read_table(directory / f"{table}.parquet"))
            engine.tables = engine._table_specs()
        except (AttributeError, LookupError, OSError, TypeError, ValueError, pa.ArrowException) as error:
            message = f"{type(error).__name__}: {first_line(error)}"
            raise ValueError(
                f"{directory}: damaged feature engine ({message}); install the kind's package, or run preprocess again"
            ) from error
        return engine

    def _files(self) -> dict[str, bytes]:
        learnt = {name: state for name, encoder in self.encoders.items() if (state := encoder.state()) is not None}
        saved = {
            "config": self.portable_config().model_dump(mode="json"),
            "types": self._types,
            "features": {feature.config.name: feature.state() for feature in self._all()},
            "tables": sorted(learnt),
        }
        files = {_STATE: json.dumps(saved, indent=1, sort_keys=True).encode()}
        for name, state in learnt.items():
            sink = io.BytesIO()
            pq.write_table(state, sink, compression="zstd")
            files[f"{name}.parquet"] = sink.getvalue()
        return files

    def _all(self) -> list[Feature]:
        return self.features["query"] + self.features["item"]

    def _table_specs(self) -> tuple[TableSpec, ...]:
        return sharing.table_specs(self.features, self.encoders, self.config.tables, self.config.embedding_dim)

    def _continue(self, base: "Engine") -> None:
        for name, encoder in self.encoders.items():
            if name in base.encoders and same_ids(base, name, self, name):
                try:
                    encoder.inherit(base.encoders[name])
                except ValueError as error:
                    raise ValueError(f"table {name!r}: {error}") from None
        known = {feature.config.name: feature for side in base.features.values() for feature in side}
        for feature in self._all():
            before = known.get(feature.config.name)
            if before is not None and before.config == feature.config:
                feature.restore(before.state())
        for side in self.features:
            types = base.schema(side, training=True)
            self._types[side] |= {name: types[name]["type"] for name in self.training_columns(side) if name in types}
        self.tables = self._table_specs()


def _missing(feature: Feature, column: str, known: Iterable[str]) -> None:
    raise ValueError(f"feature {feature.config.name!r}: {unknown('column', column, known)}")


def _named(config: FeatureConfig, side: Side) -> Feature:
    """Make a feature; what its settings lack is said of it by name."""
    try:
        return _make(config)
    except ValueError as error:
        raise ValueError(f"{side}[name={config.name}]: {error}") from None


def _make(config: FeatureConfig) -> Feature:
    return component(_CATALOGUE, config.kind).Feature(config)
