"""What a feature is: the contract of this catalogue, and the arrays that features make of Arrow columns.

Shape legend: B rows, F dense numbers per row, N ids of all rows together.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
import pyarrow as pa
from pydantic import Field, FiniteFloat, PositiveInt, SerializerFunctionWrapHandler, model_serializer, model_validator

from recsys_core.artifacts import ComponentConfig
from recsys_core.columns import RowError, ids, integers, is_list
from recsys_core.features.columns.flat import bags, ones, outside, spans, split

__all__ = [
    "Encoded",
    "Encoder",
    "Feature",
    "FeatureConfig",
    "Jagged",
    "NumberFeature",
    "Pooling",
    "RowError",
    "Side",
    "SparseConfig",
    "SparseFeature",
    "bags",
    "ids",
    "integers",
    "is_list",
    "ones",
    "outside",
    "spans",
    "split",
]
Side = Literal["query", "item"]
Pooling = Literal["mean", "sum", "max", "tile", "none"]


class Jagged(NamedTuple):
    """Rows of unequal length: `values` int64 [N], row after row; `lengths` int32 [B], how many belong to each row.

    Of a sequence of numbers `values` are float32 [N, D].

    values  7 8 | | 9        (three rows)
    lengths  2   0  1
    weights .5 1    2        float32 [N], where the feature has them
    left_out 0  1   0        int32 [B], ids that are not among the values because their table has no such row; None: 0
    """

    values: np.ndarray
    lengths: np.ndarray
    weights: np.ndarray | None = None
    left_out: np.ndarray | None = None

    def take(self, rows: np.ndarray) -> Self:
        """Gather rows by number, in that order; a row may be taken many times."""
        lengths = self.lengths[rows]
        starts = np.cumsum(self.lengths, dtype=np.int64) - self.lengths
        taken = self._at(spans(starts[rows], lengths), lengths)
        return taken if self.left_out is None else taken._replace(left_out=self.left_out[rows])

    def first(self, count: int) -> Self:
        """Keep the first `count` values of each row that has more."""
        lengths = np.minimum(self.lengths, count)
        starts = np.cumsum(self.lengths, dtype=np.int64) - self.lengths
        return self._at(spans(starts, lengths), lengths)

    def last(self, count: int) -> Self:
        """Keep the last `count` values of each row that has more."""
        lengths = np.minimum(self.lengths, count)
        ends = np.cumsum(self.lengths, dtype=np.int64)
        return self._at(spans(ends - lengths, lengths), lengths)

    def _at(self, places: np.ndarray, lengths: np.ndarray) -> Self:
        weights = None if self.weights is None else self.weights[places]
        return type(self)(self.values[places], lengths, weights, self.left_out)


class Encoded(NamedTuple):
    """One side's features of B rows: `dense` float32 [B, F], `sparse` by feature name, ids as rows of its table.

    `numbers` are the sequences of numbers by feature name.
    """

    num_rows: int
    dense: np.ndarray
    sparse: dict[str, Jagged]
    numbers: Mapping[str, Jagged] = MappingProxyType({})

    def take(self, rows: np.ndarray) -> Self:
        """Gather rows by number, in that order; a row may be taken many times."""
        sparse, numbers = (
            {name: jagged.take(rows) for name, jagged in held.items()} for held in (self.sparse, self.numbers)
        )
        return type(self)(len(rows), self.dense[rows], sparse, numbers)


class SparseFeature(NamedTuple):
    """A feature of ids: which table they are rows of, and how a row's embeddings become one (pooling none: they don't).

    `tile_length` is how many are put side by side where they are tiled; `weighted` says whether ids have weights.
    """

    name: str
    table: str
    pooling: Pooling
    tile_length: int = 0
    weighted: bool = False


class NumberFeature(NamedTuple):
    """A feature of `dim` numbers, for each row or, of a sequence, for each entry."""

    name: str
    dim: int


class FeatureConfig(ComponentConfig):
    """The keys that every kind of feature has besides `kind`; a feature without `column` reads the one of its name."""

    name: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    column: str | None = None
    group: str | None = Field(
        default=None,
        description="features of one group have as many entries as each other in every row, or are refused",
    )
    at_serving: bool | int | FiniteFloat | str | None = Field(
        default=None,
        description="what its column holds wherever the model is asked, where the column need not be there: training "
        "reads the column, evaluation, prediction and serving this; such as 1 for the position of a shown item",
    )

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Engines without it have the digest that they had before there was such a key.
        found = handler(self)
        if found.get("at_serving", self) is None:
            del found["at_serving"]
        return found


class SparseConfig(FeatureConfig):
    """The keys of every feature that has lists of ids.

    Of a longer row the last `max_length` entries are kept: histories end with the most recent; or, with `keep: first`,
    the first. An entry may itself be a list, whose ids are kept or left out together. With `weighted` an entry is a
    text `id:weight` (without a weight it counts 1), or the column a map of ids to weights; an embedding is multiplied
    by its weight, and a mean is divided by the sum of the weights.
    """

    separator: str | None = Field(default=None, min_length=1, description="splits texts into lists")
    integers: bool = Field(
        default=False, description="texts are whole numbers: 7, 007 and 7.0 are the id 7; others are refused"
    )
    max_length: PositiveInt | None = None
    keep: Literal["last", "first"] = "last"
    weighted: bool = False
    pooling: Pooling = Field(
        default="mean",
        description="what a row's embeddings become: their mean, sum or maximum; the first `tile_length` of them side "
        "by side, zeros after the last (tile); or nothing: a model gets each of them (none)",
    )
    tile_length: PositiveInt | None = Field(default=None, description="of pooling tile: how many embeddings")
    embedding_dim: PositiveInt | None = Field(default=None, description="of the table; null: the section's")

    @model_validator(mode="after")
    def _tiles(self) -> Self:
        if (self.pooling == "tile") != (self.tile_length is not None):
            raise ValueError(
                "pooling: tile goes with tile_length, how many embeddings stand side by side, and it with it"
            )
        return self


class Encoder(ABC):
    """Which row of an embedding table belongs to which value; the features of a shared table share the encoder.

    `spec` holds the settings that fix the meaning of a row: encoders are interchangeable where their specs are equal.
    Where `max_rows` is not None, `num_embeddings` may grow up to it with each fit. Rows from
    `first_id_row` on are each of one id, or of all that have its hash; None: rows are not those of ids.
    """

    num_embeddings: int
    first_id_row: int | None = None
    max_rows: int | None = None
    spec: dict[str, Any]
    family: str | None = None  # encoders of one family can encode in one call, by `encode_each`

    @classmethod
    def encode_each(cls, encoders: "Sequence[Encoder]", columns: Sequence[pa.Array]) -> list[np.ndarray]:
        """Do what `encode` of each of the encoders, all of one family, does with its column."""
        return [encoder.encode(column) for encoder, column in zip(encoders, columns, strict=True)]

    def observe(self, values: pa.Array) -> None:  # noqa: B027 - not everything learns
        """Learn from one chunk of values (flat, without nulls)."""

    def settle(self) -> None:  # noqa: B027 - not everything learns
        """End a round of `observe`: rows that were given out earlier stay as they are."""

    @abstractmethod
    def encode(self, values: pa.Array) -> np.ndarray:
        """int64 [N]: the row of each of the N values (flat, without nulls)."""

    def rows(self, values: pa.Array, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Encode bags of values: the rows, and how many of them each bag has (as many as values, if not overridden)."""
        return self.encode(values), lengths

    @property
    def fitted(self) -> bool | None:
        """Whether it has learnt what it needs, or None if there is nothing to learn."""
        return None

    def state(self) -> pa.Table | None:
        """What was learnt, or None if there is nothing to learn."""
        return None

    def restore(self, state: pa.Table) -> None:  # noqa: B027 - not everything learns
        """Take over what `state` returned."""

    def report(self) -> dict[str, int] | None:
        """How full the table is, or None if its size is no question."""
        return None

    def figures(self) -> dict[str, float]:
        """How well the table serves its ids, for a training's curves."""
        return {}

    def owners(self) -> np.ndarray | None:
        """int64 [K, 2]: rows and the ids that they belong to, where rows may change hands between fits."""
        return None

    def inherit(self, before: "Encoder") -> None:
        """Take over what `before`, the table's encoder in an earlier engine, has learnt and still holds here.

        Raises:
            ValueError: it cannot be held here, such as more rows than there may be.
        """
        state = before.state()
        if self.spec == before.spec and state is not None:
            self.restore(state)

    def known(self) -> pa.Table | None:
        """id, row of every id with a row of its own; None where rows are not given out to single ids."""
        return None

    def own_rows(self, ids: pa.Array) -> np.ndarray | None:  # noqa: ARG002 - see below
        """int64 [N]: an id's row, its own or that of its hash, -1: it has none; None: ids have no one row."""
        return None

    def inside(self, before: "Encoder") -> np.ndarray:
        """int64 [num_embeddings]: the row of `before` that stood for all that a row stands for here, -1: none did."""
        rows = np.arange(self.num_embeddings)
        return rows if self.spec == before.spec else np.full_like(rows, -1)


class Feature(ABC):
    """One configured feature.

    Dense if `dense_dim` > 0; a sequence of numbers, so many for each entry, if `sequence_dim` > 0; else sparse, with
    `table`, `pooling` and an `encoder`.
    """

    makes_value: ClassVar[bool] = False  # whether other features may read what `value` returns
    reads_ids: ClassVar[bool] = False  # whether it takes its column's values as ids
    is_cheap: bool = False  # whether a thread of its own costs more than it saves
    is_plain: bool = False  # whether it may pass on a column as it is: see `plain`

    dense_dim: int = 0
    sequence_dim: int = 0
    table: str | None = None
    pooling: Pooling = "mean"
    tile_length: int = 0
    weighted: bool = False
    embedding_dim: int | None = None
    encoder: Encoder | None = None

    def __init__(self, config: FeatureConfig) -> None:
        """`config` is of the feature's own kind. A sparse feature without an `encoder` gets its table's.

        `columns` are what it reads: columns of the data, or other features of its side, whose values it then takes.
        """
        self.config = config
        self.columns: tuple[str, ...] = (config.column or config.name,)

    def take_pooling(self, config: SparseConfig) -> None:
        """Set what `config` says about the embeddings of a sparse feature."""
        self.pooling, self.tile_length = config.pooling, config.tile_length or 0
        self.weighted, self.embedding_dim = config.weighted, config.embedding_dim

    def portable(self) -> FeatureConfig:
        """The config as an engine saves it: without files that may not be there where it is loaded."""
        return self.config

    @property
    def is_output(self) -> bool:
        """Whether a model reads the feature, and not only other features."""
        return self.dense_dim > 0 or self.sequence_dim > 0 or self.table is not None

    @property
    def fitted(self) -> bool | None:
        """Whether it has learnt what it needs, or None if there is nothing to learn."""
        return None if self.encoder is None else self.encoder.fitted

    def report(self) -> dict[str, int]:
        """What the feature counted, besides its encoder's report."""
        return {}

    def value(self, columns: Sequence[pa.Array]) -> pa.Array:
        """Make one column of the feature's `columns`; `observe` and `transform` get what this returns."""
        return columns[0]

    def observe(self, column: pa.Array) -> None:  # noqa: B027 - not everything learns
        """Learn from one chunk of the column."""

    def settle(self) -> None:  # noqa: B027 - not everything learns
        """End a round of `observe`."""

    def to_encode(self, column: pa.Array) -> tuple[pa.Array, np.ndarray] | None:  # noqa: ARG002 - see below
        """Return the values and lengths of which `transform` only takes `encoder.rows`; None if it does anything else.

        Features whose encoders are of one family are then encoded in one call.
        """
        return None

    def plain(self, column: pa.Array) -> np.ndarray | None:  # noqa: ARG002 - see below
        """Return the column as it is where `transform` would pass it on: float32 or int64 [B]; None if it does more.

        The numbers are not checked yet to be finite, or rows of the table: the engine checks many at once.
        """
        return None

    @abstractmethod
    def transform(self, column: pa.Array) -> np.ndarray | Jagged:
        """float32 [B, dense_dim] of a dense feature; Jagged: rows of `table`, or float32 [N, sequence_dim]."""

    def state(self) -> dict[str, Any]:
        """What was learnt besides the encoder, as JSON."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:  # noqa: B027 - not everything learns
        """Take over what `state` returned."""
