"""Feature kind `raw`: numbers of one column, as dense inputs, as a sequence, or, in buckets, as rows of a table."""

from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, FiniteFloat, PositiveInt, model_validator

from recsys_core.features import base
from recsys_core.features.columns import bags, flat
from recsys_core.features.columns.expression import Expression, Vector
from recsys_core.features.columns.numbers import floats
from recsys_core.features.encoders.buckets import Buckets, FittedBuckets
from recsys_core.features.encoders.moments import Moments
from recsys_core.features.encoders.ranks import Ranks

_SMALLEST = 1e-10
_FITTED = ("zscore", "minmax", "quantile")


class Config(base.FeatureConfig):
    """Keys of a raw feature.

    The column holds a number per row or, with `dim` > 1, a list of exactly `dim` numbers. Nulls and NaN become `fill`
    after normalising. With `boundaries` b0 < b1 < … a number becomes the id of its bucket, (-inf, b0) being 0 and
    [b0, b1) being 1, in a table of the feature's own; a null then has no id. With `num_buckets` the boundaries are
    fitted, so that buckets are equally full, and stay as first fitted. With `table` the bucket's number is an id of
    that table, which belongs to an id feature, and shares its row.

    With `pooling: none` the column holds a list per row, of any number of entries: each is a number or, with `dim` > 1,
    a list of exactly `dim` numbers. Entries that are null are entries, and become `fill`. What is fitted is fitted over
    the entries. Lists, of buckets too, are split and cut as those of ids are.
    """

    kind: Literal["raw"] = "raw"
    dim: PositiveInt = 1
    normalizer: Literal["none", "log1p", "log10", "zscore", "minmax", "quantile", "expression"] = Field(
        default="none",
        description="log10: of at least 1e-10; quantile: the share of the fitted numbers that are less, and half of "
        "those that are equal; expression: see `expression`",
    )
    expression: str | None = Field(default=None, description="of the number x, as in (x - 3) / 2")
    fill: float = 0.0
    boundaries: tuple[FiniteFloat, ...] | None = None
    num_buckets: int | None = Field(default=None, ge=2, description="how many buckets to fit boundaries for")
    table: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", description="goes with boundaries")
    separator: str | None = Field(default=None, min_length=1, description="splits texts into lists of numbers")
    max_length: PositiveInt | None = Field(default=None, description="entries that are kept of a longer list")
    keep: Literal["last", "first"] = Field(default="last", description="which of them")
    pooling: Literal["mean", "sum", "max", "none"] = Field(
        default="mean",
        description="of several bucket ids in a row; none: a model gets each entry, its numbers or its bucket's row",
    )
    embedding_dim: PositiveInt | None = None
    input: Literal["raw", "encoded"] = Field(
        default="raw",
        description="encoded: an upstream job has normalised the numbers, or with boundaries found the buckets",
    )

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if (self.normalizer == "expression") != (self.expression is not None):
            raise ValueError("normalizer: expression goes with expression, as in log1p(x) / 3, and it with it")
        if self.expression is not None:
            parsed = Expression(self.expression)
            if parsed.names != ("x",):
                raise ValueError(f"expression {self.expression!r}: the number is called x, and nothing else is known")
            # Functions of lists have none to take.
            parsed({"x": np.zeros(1)})
        return self

    @model_validator(mode="after")
    def _buckets_agree(self) -> Self:
        if self.boundaries is None and self.num_buckets is None:
            if self.embedding_dim is not None or self.table is not None or self.pooling not in ("mean", "none"):
                raise ValueError(
                    "embedding_dim, table and pooling (but none) are of use with boundaries or num_buckets only; "
                    "without them the feature has no table"
                )
            if self.pooling == "mean" and (self.separator is not None or self.max_length is not None):
                raise ValueError("separator and max_length are of lists: they go with pooling: none, or with buckets")
            if self.separator is not None and self.dim != 1:
                raise ValueError(
                    f"separator splits texts into single numbers, where dim is {self.dim}; give lists of lists of "
                    "numbers, or a feature to each of them"
                )
            return self
        if self.boundaries is not None and self.num_buckets is not None:
            raise ValueError("boundaries are given or, by num_buckets, fitted; give one of both")
        if self.num_buckets is not None and self.input == "encoded":
            raise ValueError("num_buckets fits boundaries to numbers, and input: encoded has none; give boundaries")
        if self.boundaries is None and self.table is not None:
            raise ValueError("table goes with boundaries that are given: fitted ones would change what its rows mean")
        if self.boundaries is not None and (
            not self.boundaries or any(a >= b for a, b in zip(self.boundaries, self.boundaries[1:], strict=False))
        ):
            raise ValueError(f"boundaries must be rising numbers, at least one; found {list(self.boundaries)}")
        if self.dim != 1 or self.normalizer != "none":
            raise ValueError("buckets go with neither dim nor normalizer: they are of the column's own numbers")
        return self


class Feature(base.Feature):
    """Numbers, normalised; or bucket ids."""

    is_cheap = True

    def __init__(self, config: Config) -> None:
        """Zscore, minmax and quantile have to be fitted before use."""
        super().__init__(config)
        self._config = config
        self._moments = Moments(config.dim)
        self._learns = config.normalizer in _FITTED and config.input == "raw"
        self._fitted = not self._learns
        self._passes = config.normalizer == "none" or config.input == "encoded"
        self._ranks = [Ranks() for _ in range(config.dim)]
        self._expression = None if config.expression is None else Expression(config.expression)
        self._buckets: base.Encoder | None = None
        if config.boundaries is not None:
            self._buckets = Buckets(config.boundaries)
        elif config.num_buckets is not None:
            self._buckets = FittedBuckets(config.num_buckets)
        self.is_plain = self._passes and self._buckets is None and config.dim == 1
        if self._buckets is None and config.pooling == "none":
            self.sequence_dim = config.dim
            self.is_cheap = self.is_plain = False
            return
        if self._buckets is None:
            self.dense_dim = config.dim
            return
        self.table = config.table or config.name
        self.pooling, self.embedding_dim = config.pooling, config.embedding_dim
        if config.table is None:
            self.encoder = self._buckets

    def observe(self, column: pa.Array) -> None:
        """Take the column's numbers into the statistics of the normaliser, or into the table's."""
        if self._buckets is not None:
            assert self.encoder is not None
            values, lengths = self._bags(column)
            self.encoder.observe(values if self.encoder is self._buckets else self._bucket_numbers(values, lengths))
        elif self._learns and self._config.normalizer == "quantile":
            for ranks, numbers in zip(self._ranks, self._rows(column).T, strict=True):
                ranks.add(numbers)
        elif self._learns:
            self._moments.add(self._rows(column))
        else:
            # Nothing is learnt, but what cannot be taken is found before anything is trained.
            self.transform(column)

    def settle(self) -> None:
        """End a round of `observe`."""
        self._fitted = True

    def plain(self, column: pa.Array) -> np.ndarray | None:
        """Return single numbers that nothing is to be done to."""
        if column.null_count or not pa.types.is_floating(column.type):
            return None
        return column.to_numpy(zero_copy_only=False).astype(np.float32, copy=False)

    def transform(self, column: pa.Array) -> np.ndarray | base.Jagged:
        """float32 [B, dim], bucket ids, or a sequence's float32 [N, dim].

        Raises:
            ValueError: not numbers, infinite, a list of another length than `dim`, or not fitted yet.
        """
        if self._buckets is not None:
            return self._bucketed(column)
        if self.sequence_dim:
            entries = self._entries(column)
            return entries._replace(values=self._filled(entries.values))
        return self._filled(self._numbers(column))

    def _filled(self, numbers: np.ndarray) -> np.ndarray:
        """float32 of float64 [B, dim], normalised, `fill` for those that are missing."""
        normalized = numbers if self._passes else self._normalize(numbers)
        return np.where(np.isnan(normalized), self._config.fill, normalized).astype(np.float32)

    def _rows(self, column: pa.Array) -> np.ndarray:
        """float64 [B, dim], of a sequence [N, dim]; missing ones NaN."""
        return self._entries(column).values if self.sequence_dim else self._numbers(column)

    def _entries(self, column: pa.Array) -> base.Jagged:
        """Split and cut the column's lists; float64 [N, dim], missing ones NaN."""
        column = flat.split(column, self._config.separator)
        if pa.types.is_null(column.type):
            return base.Jagged(np.empty((0, self._config.dim)), np.zeros(len(column), np.int32))
        if not base.is_list(column.type):
            raise ValueError(
                f"its type {column.type} is no list, which pooling: none takes; give lists, or a separator for texts"
            )
        if self._config.max_length is not None:
            column = bags.truncated(column, self._config.max_length, self._config.keep, drop_nulls=False)
        lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False).astype(np.int32)
        return base.Jagged(self._numbers(self._parsed(pc.list_flatten(column)), lengths), lengths)

    def _bags(self, column: pa.Array) -> tuple[pa.Array, np.ndarray]:
        """Split and cut the column's lists, if it has any; values without nulls, and how many each row has."""
        column = flat.split(column, self._config.separator)
        if self._config.max_length is not None and base.is_list(column.type):
            column = bags.truncated(column, self._config.max_length, self._config.keep)
        values, lengths = flat.bags(column)
        values = self._parsed(values)
        if values.null_count:
            # A text without a number in it is a null only now.
            valid = values.is_valid().to_numpy(zero_copy_only=False)
            values, lengths, *_ = bags.Bags(values, lengths, None).kept(valid)
        return values, lengths

    def _parsed(self, values: pa.Array) -> pa.Array:
        """Read numbers out of the texts that `separator` has split; an empty one is null."""
        is_text = pa.types.is_string(values.type) or pa.types.is_large_string(values.type)
        if self._config.separator is None or not is_text:
            return values
        texts = pc.utf8_trim_whitespace(values)
        buckets_given = self._buckets is not None and self._config.input == "encoded"
        try:
            known = pc.if_else(pc.equal(texts, ""), pa.scalar(None, texts.type), texts)
            return known.cast(pa.int64() if buckets_given else pa.float64())
        except pa.ArrowInvalid as error:
            raise ValueError(f"a text between separators is no number ({error})") from None

    def _bucketed(self, column: pa.Array) -> base.Jagged:
        assert self.encoder is not None
        values, lengths = self._bags(column)
        numbers = self._bucket_numbers(values, lengths)
        if self.encoder is self._buckets:
            return base.Jagged(numbers.to_numpy(zero_copy_only=False), lengths)
        # A bucket's number is an id like any other of the table.
        return base.Jagged(*self.encoder.rows(numbers, lengths))

    def _bucket_numbers(self, values: pa.Array, lengths: np.ndarray) -> pa.Array:
        assert self._buckets is not None
        if self._config.input == "raw":
            return pa.array(self._buckets.encode(values))
        if not pa.types.is_integer(values.type) and len(values):
            raise ValueError(f"numbers of buckets are integers, found {values.type}; use input: raw for numbers")
        numbers = base.ids(values)
        flat.outside(numbers.to_numpy(zero_copy_only=False), lengths, self._buckets.num_embeddings)
        return numbers

    @property
    def fitted(self) -> bool | None:
        """Whether the normaliser has its statistics, or the table what it needs."""
        return self._fitted if self._learns else super().fitted

    def state(self) -> dict[str, Any]:
        """The statistics so far; further fits continue from them."""
        if not self._learns:
            return {}
        if self._config.normalizer == "quantile":
            return {"ranks": [ranks.to_json() for ranks in self._ranks]}
        return self._moments.to_json()

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what `state` returned."""
        if "ranks" in state:
            self._ranks, self._fitted = [Ranks.from_json(ranks) for ranks in state["ranks"]], True
        elif state:
            self._moments, self._fitted = Moments.from_json(state), True

    def _numbers(self, column: pa.Array, entries: np.ndarray | None = None) -> np.ndarray:
        """float64 [B, dim], missing ones NaN; where the column has a sequence's entries, how many of each row."""
        num_rows, dim = len(column), self._config.dim
        if base.is_list(column.type):
            lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
            # A row without a list has nothing known; all others must have every number (or an explicit null).
            wrong = np.flatnonzero((lengths != dim) & (lengths != 0))
            if len(wrong):
                row = wrong[0] if entries is None else np.repeat(np.arange(len(entries)), entries)[wrong[0]]
                raise base.RowError(int(row), f"has a list of {lengths[wrong[0]]} numbers where dim is {dim}")
            numbers = np.full((num_rows, dim), np.nan)
            numbers[lengths != 0] = floats(pc.list_flatten(column)).reshape(-1, dim)
            return numbers
        if dim != 1 and not pa.types.is_null(column.type):
            raise ValueError(f"its type {column.type} is no list of numbers, where dim is {dim}")
        return np.broadcast_to(floats(column)[:, None], (num_rows, dim))

    def _normalize(self, numbers: np.ndarray) -> np.ndarray:
        """float64 [B, dim]; missing ones, and what an expression has no answer for, NaN."""
        kind = self._config.normalizer
        if not self._fitted:
            raise ValueError(f"normalizer {kind} is not fitted yet; fit or load the feature engine first")
        match kind:
            case "none":
                return numbers
            case "log1p":
                if (numbers <= -1).any():
                    raise ValueError(f"log1p of {numbers[numbers <= -1][0]:g}; numbers must be above -1, or use zscore")
                return np.log1p(numbers)
            case "log10":
                return np.log10(np.maximum(numbers, _SMALLEST))
            case "expression":
                assert self._expression is not None
                found = self._expression({"x": numbers.reshape(-1)})
                assert not isinstance(found, Vector)
                return np.broadcast_to(found, numbers.size).reshape(numbers.shape)
            case "quantile":
                columns = zip(self._ranks, numbers.T, strict=True)
                return np.stack([ranks.share_below(column) for ranks, column in columns], axis=1)
            case _:
                shift, scale = self._moments.shift_and_scale(kind)
                return (numbers - shift) / scale
