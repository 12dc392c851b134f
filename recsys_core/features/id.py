"""Feature kind `id`: ids of one column (a value or a list of values per row) as rows of an embedding table.

Encodings: `vocabulary` (fitted; row 0 for ids without a row of their own), `dynamic` (likewise, but rows are taken
back too), `given` (a list or a file), `hash`, `multi_hash` and `identity`.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from pydantic import Field, PositiveInt, model_validator

from recsys_core.features import _bags, _counts, _dynamic, _hashing, _rows, base

_INT64 = pa.int64()
_COUNT_ERROR = b"count_error"
_NOTHING = pa.table(
    {"id": pa.array([], pa.int64()), "count": pa.array([], pa.int64()), "row": pa.array([], pa.int64())}
)


class Config(base.SparseConfig):
    """Keys of an id feature.

    `table` shares an embedding table with other features of the same settings. A fitted vocabulary has
    `num_embeddings` - `num_oov` rows to give out, to ids seen at least `min_count` times; one that is given
    (`vocabulary`, or `vocabulary_file` with an id per line) gives each id the next row. Rows 0 to `num_oov` - 1 are for
    all other ids, by their hash. With `dynamic` rows of ids that are not seen again go to others, and the table grows
    as it needs to. `mod` takes integers modulo that first; `default` stands for a null or an empty list.

    `input: encoded` reads what an upstream job has encoded already: rows of the table. Rows, and ids of
    `encoding: identity`, that are not in the table are refused, or with `out_of_range: drop` left out and counted.
    """

    kind: Literal["id"] = "id"
    num_embeddings: int | None = Field(default=None, ge=2)
    encoding: Literal["vocabulary", "dynamic", "given", "hash", "multi_hash", "identity"] = "vocabulary"
    hash: _hashing.Name = "xxh3"
    num_buckets: tuple[PositiveInt, ...] = Field(
        default=(), description="of multi_hash: an id has one row among each of these, in one table"
    )
    vocabulary: tuple[str | int, ...] | None = None
    vocabulary_file: Path | None = None
    dynamic: _dynamic.Policy | None = None
    num_oov: PositiveInt = 1
    mod: PositiveInt | None = None
    default: int | str | None = None
    input: Literal["raw", "encoded"] = "raw"
    out_of_range: Literal["refuse", "drop"] = "refuse"
    table: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    min_count: PositiveInt = 1
    max_counted: PositiveInt | None = Field(
        default=None,
        description="of encodings vocabulary and dynamic: ids without a row that are counted at most, beyond which the "
        "rarest are forgotten; null: 1,048,576, or twice num_embeddings (dynamic.max_rows) if that is more",
    )

    @model_validator(mode="after")
    def _agree(self) -> Self:
        given = self.vocabulary is not None or self.vocabulary_file is not None
        if "encoding" not in self.model_fields_set and (given or self.dynamic):
            object.__setattr__(self, "encoding", "given" if given else "dynamic")
        sized = self.encoding in ("vocabulary", "hash", "identity")
        if sized != (self.num_embeddings is not None):
            raise ValueError(
                f"encoding: {self.encoding} {'needs num_embeddings' if sized else 'has its size from its own keys'}; "
                f"{'say how many rows the table has' if sized else 'drop num_embeddings'}"
            )
        if (self.encoding == "given") != given or (self.vocabulary is not None and self.vocabulary_file is not None):
            raise ValueError("encoding: given goes with one of vocabulary and vocabulary_file, and they with it")
        if (self.encoding == "dynamic") != (self.dynamic is not None):
            raise ValueError("encoding: dynamic goes with dynamic, as in {max_rows: 1000000}, and it with that")
        if self.dynamic is not None and self.input == "encoded":
            raise ValueError(
                "input: encoded has rows of the table already, and encoding: dynamic gives them out; drop one"
            )
        if (self.encoding == "multi_hash") != bool(self.num_buckets):
            raise ValueError("encoding: multi_hash goes with num_buckets, as in [10007, 10009], and they with it")
        size = self.dynamic.max_rows if self.dynamic else self.num_embeddings
        if size is not None and self.num_oov >= size:
            raise ValueError(f"num_oov {self.num_oov} leaves no row of {size} for a known id")
        if self.max_counted is not None and (
            self.encoding not in ("vocabulary", "dynamic") or self.max_counted < (size or 0)
        ):
            raise ValueError(
                f"max_counted {self.max_counted}: it goes with encoding: vocabulary or dynamic and is at least as many "
                f"as the table's rows ({size}), or ids that earned one would be forgotten"
            )
        return self


class Feature(base.Feature):
    """Ids as rows of a table; a null or an empty list has none."""

    reads_ids = True

    def __init__(self, config: Config) -> None:
        """Make the encoder; the engine replaces it by the table's where that is shared."""
        super().__init__(config)
        self._config = config
        self.table = config.table or config.name
        self.take_pooling(config)
        self.encoder = _encoder(config)
        self._left_out = _bags.LeftOut()
        self._are_rows = config.input == "encoded" or config.encoding == "identity"
        self.is_cheap = self._are_rows
        self.is_plain = self._are_rows and not config.weighted and config.mod is None and config.tile_length is None

    def observe(self, column: pa.Array) -> None:
        """Let the encoder see the column's ids."""
        assert self.encoder is not None
        bags = self._read(column)
        if self._config.input == "raw":
            self.encoder.observe(bags.values)

    def to_encode(self, column: pa.Array) -> tuple[pa.Array, np.ndarray] | None:
        """Return the ids, unless they are rows already, or more than their rows is wanted."""
        if self._config.input == "encoded" or self._config.weighted or self._config.tile_length is not None:
            return None
        bags = self._read(column)
        return bags.values, bags.lengths

    def plain(self, column: pa.Array) -> np.ndarray | None:
        """Return single ids that are rows already."""
        return column.to_numpy() if column.type == _INT64 and not column.null_count else None

    def transform(self, column: pa.Array) -> base.Jagged:
        """Rows of the table by row of the column.

        Raises:
            ValueError: the column cannot hold ids, or an id that has to be a row of the table is none.
        """
        assert self.encoder is not None
        bags = self._read(column)
        if self._are_rows:
            rows, lengths = bags.values.to_numpy(zero_copy_only=False), bags.lengths
        else:
            rows, lengths = self.encoder.rows(bags.values, bags.lengths)
        return _bags.pooled(rows, lengths, bags, self._config)

    def report(self) -> dict[str, int]:
        """How many values were left out because they are no rows of the table, since the engine was made."""
        return self._left_out.report(self._config.out_of_range)

    def portable(self) -> Config:
        """The config with the vocabulary's ids in place of its file."""
        if not isinstance(self.encoder, Given) or self._config.vocabulary_file is None:
            return self._config
        return self._config.model_copy(update={"vocabulary": self.encoder.ids, "vocabulary_file": None})

    def _read(self, column: pa.Array) -> _bags.Bags:
        assert self.encoder is not None
        config = self._config
        bags = _bags.read(column, config)
        if self._are_rows or config.mod is not None:
            bags = bags.as_integers()
        if config.default is not None and not bags.lengths.all():
            bags = bags.with_default(config.default)
        if config.mod is not None:
            if not pa.types.is_integer(bags.values.type):
                raise ValueError(f"mod {config.mod} needs integers, found {bags.values.type}; hash texts")
            bags = bags._replace(values=pa.array(bags.values.to_numpy(zero_copy_only=False) % config.mod))
        if self._are_rows:
            if not pa.types.is_integer(bags.values.type):
                raise ValueError(
                    f"rows of a table are integers, found {bags.values.type}; use encoding: vocabulary or hash"
                )
            bags = bags.inside(self.encoder.num_embeddings, config.out_of_range)
            self._left_out.add(bags)
        return bags


def _encoder(config: Config) -> base.Encoder:
    if config.dynamic is not None:
        return _dynamic.Dynamic(config.dynamic, config.min_count, config.num_oov, config.max_counted)
    match config.encoding:
        case "given":
            return Given(config)
        case "multi_hash":
            return MultiHash(config.num_buckets, config.hash)
    assert config.num_embeddings is not None
    match config.encoding:
        case "vocabulary":
            return Vocabulary(config.num_embeddings, config.min_count, config.num_oov, config.max_counted)
        case "hash":
            return Hash(config.num_embeddings, config.hash)
        case _:
            return Identity(config.num_embeddings)


class Identity(base.Encoder):
    """An id is its own row."""

    first_id_row = 0

    def __init__(self, num_embeddings: int) -> None:
        """Ids run from 0 to `num_embeddings` - 1."""
        self.num_embeddings = num_embeddings
        self.spec = {"encoding": "identity", "num_embeddings": num_embeddings}

    def encode(self, values: pa.Array) -> np.ndarray:
        """Return the ids themselves.

        Raises:
            ValueError: an id is no integer or lies outside of the table.
        """
        return self.rows(values, base.ones(len(values)))[0]

    def rows(self, values: pa.Array, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the ids themselves; an id that is none of the table's rows is refused with its row of the data."""
        if not pa.types.is_integer(values.type):
            raise ValueError(f"encoding: identity needs integers, found {values.type}; use vocabulary or hash")
        rows = values.to_numpy(zero_copy_only=False)
        base.outside(rows, lengths, self.num_embeddings)
        return rows, lengths

    def own_rows(self, ids: pa.Array) -> np.ndarray:
        """int64 [N]: the ids that are rows of the table, -1 for others."""
        rows = pc.fill_null(_rows.as_type(ids, _INT64), -1).to_numpy(zero_copy_only=False)
        return np.where((rows >= 0) & (rows < self.num_embeddings), rows, -1)

    def inside(self, before: base.Encoder) -> np.ndarray:
        """An id is its own row in both, as far as both go."""
        rows = np.arange(self.num_embeddings)
        return np.where(isinstance(before, Identity) & (rows < before.num_embeddings), rows, -1)


class Given(base.Encoder):
    """The ids of a given list have the rows behind `num_oov`, in its order."""

    def __init__(self, config: Config) -> None:
        """Read the list or the file.

        Raises:
            ValueError: an id is there twice, or none is.
        """
        if config.vocabulary is not None:
            given: list[str | int] = list(config.vocabulary)
            place = "vocabulary"
        else:
            assert config.vocabulary_file is not None
            place = str(config.vocabulary_file)
            if not config.vocabulary_file.is_file():
                raise ValueError(f"vocabulary_file {place}: no such file")
            given = list(config.vocabulary_file.read_text().splitlines())
        texts = [str(one) for one in given]
        twice = [text for text, count in Counter(texts).items() if count > 1]
        if twice or not texts:
            raise ValueError(f"{place}: {f'{twice[0]!r} is there twice' if twice else 'no ids'}; name each id once")
        self._rows = {text: row for row, text in enumerate(texts, config.num_oov)}
        self.ids = tuple(texts)
        self._num_oov = self.first_id_row = config.num_oov
        self.num_embeddings = len(texts) + config.num_oov
        digest = xxhash.xxh3_64_hexdigest("\n".join(texts).encode())
        self.spec = {"encoding": "given", "num_oov": config.num_oov, "num_ids": len(texts), "digest": digest}

    def encode(self, values: pa.Array) -> np.ndarray:
        """Return the rows; every distinct id is looked up once."""
        distinct = values.dictionary_encode()
        texts = distinct.dictionary.cast(pa.string())
        rows = np.fromiter((self._rows.get(text, -1) for text in texts.to_pylist()), np.int64, len(texts))
        unknown = rows < 0
        rows[unknown] = _rows.out_of_vocabulary(texts.filter(pa.array(unknown)), self._num_oov)
        return rows[distinct.indices.to_numpy(zero_copy_only=False)]

    def known(self) -> pa.Table:
        """The ids of the list, as texts."""
        return pa.table({"id": pa.array(self.ids), "row": pa.array([*self._rows.values()], _INT64)})

    def own_rows(self, ids: pa.Array) -> np.ndarray:
        """int64 [N]: the rows of the list's ids, -1 for others."""
        texts = _rows.as_type(ids, pa.string()).to_pylist()
        return np.fromiter((self._rows.get(text, -1) for text in texts), np.int64, len(texts))


class MultiHash(base.Encoder):
    """An id has k rows, one in each part of the table, so that two ids rarely share all of them.

    Part i has num_buckets[i] rows, and an integer's row in it is the remainder, a text's its hash's: with buckets that
    have no common divisor this is the quotient-remainder family of Shi et al. 2020, Compositional Embeddings.
    """

    def __init__(self, num_buckets: tuple[int, ...], function: _hashing.Name) -> None:
        """`num_buckets` are the sizes of the parts."""
        self._num_buckets = num_buckets
        self._function: _hashing.Name = function
        self.num_embeddings = sum(num_buckets)
        self.spec = {"encoding": "multi_hash", "hash": function, "num_buckets": list(num_buckets)}

    def encode(self, values: pa.Array) -> np.ndarray:
        """int64 [N * k]: the k rows of each value, one after another."""
        if pa.types.is_integer(values.type):
            hashes = values.to_numpy(zero_copy_only=False)
            parts = [hashes % size for size in self._num_buckets]
        else:
            hashes = _hashing.hashed(values, self._function)
            parts = [_hashing.remainder(hashes, size) for size in self._num_buckets]
        first = np.cumsum(self._num_buckets) - self._num_buckets
        return (np.stack(parts, axis=1) + first).reshape(-1)

    def rows(self, values: pa.Array, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Each bag has k rows per value."""
        return self.encode(values), (lengths * len(self._num_buckets)).astype(np.int32)

    def inside(self, before: base.Encoder) -> np.ndarray:
        """Part by part as a hash."""
        alike = isinstance(before, MultiHash) and before.spec["hash"] == self._function
        old: list[int] = before.spec["num_buckets"] if alike else []
        parts: list[np.ndarray] = []
        for part, size in enumerate(self._num_buckets):
            rows = _of_remainders(size, old[part] if part < len(old) else None)
            parts.append(np.where(rows < 0, rows, rows + sum(old[:part])))
        return np.concatenate(parts)


class Hash(base.Encoder):
    """An id's row is the hash of its text (decimal for integers) modulo the table's size; see `_hashing`."""

    first_id_row = 0

    def __init__(self, num_embeddings: int, function: _hashing.Name = "xxh3") -> None:
        """`num_embeddings` is the number of buckets."""
        self.num_embeddings = num_embeddings
        self.spec = {"encoding": "hash", "hash": function, "num_embeddings": num_embeddings}
        self._function: _hashing.Name = function
        self.family = f"hash {function}"

    @classmethod
    def encode_each(cls, encoders: Sequence[base.Encoder], columns: Sequence[pa.Array]) -> list[np.ndarray]:
        """Hash all columns in one call."""
        sizes = [encoder.num_embeddings for encoder in encoders]
        return _hashing.buckets_of_each(columns, encoders[0].spec["hash"], sizes)

    def encode(self, values: pa.Array) -> np.ndarray:
        """Return the buckets."""
        return _hashing.buckets(values, self._function, self.num_embeddings)

    def own_rows(self, ids: pa.Array) -> np.ndarray:
        """The buckets."""
        return self.encode(ids)

    def inside(self, before: base.Encoder) -> np.ndarray:
        """Ids of one bucket of k · n were in one of n: that of its remainder."""
        alike = isinstance(before, Hash) and before.spec["hash"] == self._function
        return _of_remainders(self.num_embeddings, before.num_embeddings if alike else None)


class Vocabulary(base.Encoder):
    """Every id that was seen often enough has a row of its own, for good; the first `num_oov` rows are for all others.

    The first fit gives out the rows behind them by (count, falling; id, rising); each later one continues in the same
    manner with the ids that are new, or whose count, summed over all fits, reached `min_count` only now.

    Memory is bounded: up to `max_counted` ids without a row are counted, and of more the rarest are forgotten; see
    `_counts`. So who has a row was seen `min_count` times indeed, and who was seen `count_error` times more often than
    that has one, unless all are given out. Up to `max_counted` distinct ids counts are exact, and the order of reading
    is of no consequence.
    """

    def __init__(self, num_embeddings: int, min_count: int, num_oov: int = 1, max_counted: int | None = None) -> None:
        """Rows `num_oov`..`num_embeddings` - 1 are there to be given out."""
        self.num_embeddings = num_embeddings
        # How many ids are counted changes what no row stands for.
        self.spec = {"encoding": "vocabulary", "num_embeddings": num_embeddings, "min_count": min_count}
        if num_oov > 1:
            self.spec["num_oov"] = num_oov
        self._num_oov = self.first_id_row = num_oov
        self._min_count = min_count
        self._counts = _counts.Counts(max_counted, num_embeddings)
        self._seen: pa.Table | None = None
        self._row_of: _rows.RowOf

    def observe(self, values: pa.Array) -> None:
        """Count the ids of one chunk."""
        self._counts.add(values, self._seen)

    def settle(self) -> None:
        """Give rows to the ids that earned one."""
        known = self._known()
        counted = [table.select(["id", "count"]) for table in known] + self._counts.take()
        if not counted:
            self.restore(_NOTHING if self._seen is None else self._seen)
            return
        merged = _rows.sum_counts(counted)
        rows = np.zeros(merged.num_rows, dtype=np.int64)
        for table in known:
            rows[pc.index_in(table["id"], merged["id"]).to_numpy()] = table["row"].to_numpy()
        counts = merged["count"].to_numpy()
        new = np.flatnonzero((rows == 0) & (counts >= self._min_count))
        # The ids are in rising order, which a stable sort by the count keeps among equals.
        new = new[np.argsort(-counts[new], kind="stable")]
        first = max(int(rows.max(initial=0)) + 1, self._num_oov)
        new = new[: max(self.num_embeddings - first, 0)]
        rows[new] = np.arange(first, first + len(new))
        state = self._counts.cut(merged.append_column("row", pa.array(rows)), rows > 0)
        metadata = {_COUNT_ERROR: str(self._counts.error)} if self._counts.error else None
        self.restore(state.replace_schema_metadata(metadata))

    def encode(self, values: pa.Array) -> np.ndarray:
        """Return the rows; one of the first `num_oov` for ids without one of their own."""
        if self._seen is None:
            raise ValueError("the vocabulary is not fitted yet; fit or load the feature engine first")
        return _rows.with_out_of_vocabulary(self._row_of.find(values), values, self._num_oov)

    @property
    def fitted(self) -> bool:
        """Whether ids have been given rows."""
        return self._seen is not None

    def state(self) -> pa.Table | None:
        """id, count, row (0: none) of every id ever seen, by rising id."""
        return self._seen

    def restore(self, state: pa.Table) -> None:
        """Take over what `state` returned, and prepare the look-up."""
        self._seen = state
        self._counts.take()
        self._counts.error = int((state.schema.metadata or {}).get(_COUNT_ERROR, 0))
        rows = state["row"].to_numpy()
        self._row_of = _rows.RowOf(state["id"].filter(pa.array(rows > 0)), rows[rows > 0])

    def figures(self) -> dict[str, float]:
        """Share of the rows that are taken, and share of all values seen whose ids share one."""
        if self._seen is None or not self._seen.num_rows:
            return {}
        report, counts = self.report(), self._seen["count"].to_numpy()
        shared = counts[self._seen["row"].to_numpy() == 0].sum()
        return {"occupancy": report["known"] / report["capacity"], "collision_rate": float(shared / counts.sum())}

    def report(self) -> dict[str, int]:
        """Ids with a row, ids that were seen but have none, how many rows there are to give out, and `count_error`."""
        seen = 0 if self._seen is None else self._seen.num_rows
        known = 0 if self._seen is None else len(self._row_of.rows)
        report = {"known": known, "out_of_vocabulary": seen - known, "capacity": self.num_embeddings - self._num_oov}
        return report | ({"count_error": self._counts.error} if self._counts.error else {})

    def inherit(self, before: base.Encoder) -> None:
        """Take over the ids of a vocabulary of other settings or of a dynamic table; who has a row here keeps it."""
        if self.spec == before.spec or not isinstance(before, Vocabulary | _dynamic.Dynamic):
            super().inherit(before)
        elif (state := before.state()) is not None:
            metadata = state.schema.metadata if isinstance(before, Vocabulary) else None
            self.restore(_rows.within(state, self._num_oov, self.num_embeddings).replace_schema_metadata(metadata))

    def known(self) -> pa.Table:
        """The ids that have been given rows."""
        return _rows.given_out(_NOTHING if self._seen is None else self._seen)

    def own_rows(self, ids: pa.Array) -> np.ndarray:
        """int64 [N]: the rows that have been given out, -1 for other ids."""
        return np.full(len(ids), -1) if self._seen is None else self._row_of.of_any(ids)

    def _known(self) -> list[pa.Table]:
        return [] if self._seen is None or not self._seen.num_rows else [self._seen]


def _of_remainders(size: int, before: int | None) -> np.ndarray:
    """int64 [size]: which of `before` remainders those of `size` were; -1 unless these divide `size`."""
    if not before or size % before:
        return np.full(size, -1)
    return np.arange(size) % before
