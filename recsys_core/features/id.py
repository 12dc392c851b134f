"""Feature kind `id`: ids of one column (a value or a list of values per row) as rows of an embedding table.

Three encodings: `vocabulary` (fitted; row 0 for ids without a row of their own), `hash`, and `identity`.
"""

from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, PositiveInt

from recsys_core.features import _hashing, base

_PENDING_ROWS = 1 << 20
_MAX_DIRECT_SPAN_PER_ID = 16
_NOTHING = pa.table(
    {"id": pa.array([], pa.int64()), "count": pa.array([], pa.int64()), "row": pa.array([], pa.int64())}
)


class Config(base.FeatureConfig):
    """Keys of an id feature.

    `table` shares an embedding table with other features of the same settings; `embedding_dim` overrides the
    section's. A vocabulary has `num_embeddings - 1` rows to give out, to ids seen at least `min_count` times.
    """

    kind: Literal["id"] = "id"
    num_embeddings: int = Field(ge=2)
    encoding: Literal["vocabulary", "hash", "identity"] = "vocabulary"
    table: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    embedding_dim: PositiveInt | None = None
    pooling: base.Pooling = "mean"
    min_count: PositiveInt = 1


class Feature(base.Feature):
    """Ids as rows of a table; a null or an empty list has none."""

    def __init__(self, config: Config) -> None:
        """Make the encoder; the engine replaces it by the table's where that is shared."""
        super().__init__(config)
        self.table = config.table or config.name
        self.pooling = config.pooling
        self.embedding_dim = config.embedding_dim
        match config.encoding:
            case "vocabulary":
                self.encoder = Vocabulary(config.num_embeddings, config.min_count)
            case "hash":
                self.encoder = Hash(config.num_embeddings)
            case _:
                self.encoder = Identity(config.num_embeddings)

    def observe(self, column: pa.Array) -> None:
        """Let the encoder see the column's ids."""
        assert self.encoder is not None
        self.encoder.observe(base.ids(base.bags(column)[0]))

    def transform(self, column: pa.Array) -> base.Jagged:
        """Rows of the table by row of the column."""
        assert self.encoder is not None
        values, lengths = base.bags(column)
        return base.Jagged(self.encoder.encode(base.ids(values)), lengths)


class Identity(base.Encoder):
    """An id is its own row."""

    def __init__(self, num_embeddings: int) -> None:
        """Ids run from 0 to `num_embeddings` - 1."""
        self.num_embeddings = num_embeddings
        self.spec = {"encoding": "identity", "num_embeddings": num_embeddings}

    def encode(self, values: pa.Array) -> np.ndarray:
        """Return the ids themselves.

        Raises:
            ValueError: an id is no integer or lies outside of the table.
        """
        if not pa.types.is_integer(values.type):
            raise ValueError(f"encoding: identity needs integers, found {values.type}; use vocabulary or hash")
        rows = values.to_numpy(zero_copy_only=False)
        outside = (rows < 0) | (rows >= self.num_embeddings)
        if outside.any():
            raise ValueError(
                f"id {rows[outside][0]} is not in 0..{self.num_embeddings - 1}; raise num_embeddings or use "
                "encoding: hash or vocabulary"
            )
        return rows


class Hash(base.Encoder):
    """An id's row is the hash of its text (decimal for integers) modulo the table's size; see `_hashing`."""

    def __init__(self, num_embeddings: int, function: _hashing.Name = "xxh3") -> None:
        """`num_embeddings` is the number of buckets."""
        self.num_embeddings = num_embeddings
        self.spec = {"encoding": "hash", "hash": function, "num_embeddings": num_embeddings}
        self._function: _hashing.Name = function

    def encode(self, values: pa.Array) -> np.ndarray:
        """Return the buckets."""
        return _hashing.remainder(_hashing.hashed(values, self._function), self.num_embeddings)


class Vocabulary(base.Encoder):
    """Every id that was seen often enough has a row of its own, for good; row 0 is for all others.

    The first fit gives out rows from 1 by (count, falling; id, rising); each later one continues in the same manner
    with the ids that are new, or whose count, summed over all fits, reached `min_count` only now.
    """

    def __init__(self, num_embeddings: int, min_count: int) -> None:
        """Rows 1..`num_embeddings` - 1 are there to be given out."""
        self.num_embeddings = num_embeddings
        self.spec = {"encoding": "vocabulary", "num_embeddings": num_embeddings, "min_count": min_count}
        self._min_count = min_count
        self._seen: pa.Table | None = None
        self._pending: list[pa.Table] = []

    def observe(self, values: pa.Array) -> None:
        """Count the ids of one chunk."""
        if not len(values):
            return
        for table in [*self._known(), *self._pending][:1]:
            _check_type(table["id"].type, values.type)
        counted = values.value_counts()
        self._pending.append(pa.table({"id": counted.field("values"), "count": counted.field("counts")}))
        if sum(table.num_rows for table in self._pending) > _PENDING_ROWS:
            self._pending = [_sum_counts(self._pending)]

    def settle(self) -> None:
        """Give rows to the ids that earned one."""
        known = self._known()
        counted = [table.select(["id", "count"]) for table in known] + self._pending
        if not counted:
            self.restore(_NOTHING)
            return
        merged = _sum_counts(counted)
        rows = np.zeros(merged.num_rows, dtype=np.int64)
        for table in known:
            rows[pc.index_in(table["id"], merged["id"]).to_numpy()] = table["row"].to_numpy()
        counts = merged["count"].to_numpy()
        new = np.flatnonzero((rows == 0) & (counts >= self._min_count))
        # The ids are in rising order, which a stable sort by the count keeps among equals.
        new = new[np.argsort(-counts[new], kind="stable")]
        first = int(rows.max(initial=0)) + 1
        new = new[: self.num_embeddings - first]
        rows[new] = np.arange(first, first + len(new))
        self.restore(merged.append_column("row", pa.array(rows)))

    def encode(self, values: pa.Array) -> np.ndarray:
        """Return the rows; 0 for ids without one."""
        if self._seen is None:
            raise ValueError("the vocabulary is not fitted yet; fit or load the feature engine first")
        if not len(values) or not len(self._rows):
            return np.zeros(len(values), dtype=np.int64)
        _check_type(self._seen["id"].type, values.type)
        if self._row_of is None:
            numbers = values.to_numpy(zero_copy_only=False)
            inside = (numbers >= self._ids[0]) & (numbers <= self._ids[-1])
            places = np.where(inside, numbers, self._ids[0])
            if self._direct is not None:
                return self._direct[places - self._ids[0]] * inside
            found = np.searchsorted(self._ids, places)
            return np.where(self._ids[found] == numbers, self._rows[found], 0)
        # Looked up in a dict, not by Arrow's index_in, which would hash the whole vocabulary again for every batch.
        distinct = values.dictionary_encode()
        texts = distinct.dictionary.to_pylist()
        rows = np.fromiter((self._row_of.get(text, 0) for text in texts), dtype=np.int64, count=len(texts))
        return rows[distinct.indices.to_numpy(zero_copy_only=False)]

    def state(self) -> pa.Table | None:
        """id, count, row (0: none) of every id ever seen, by rising id."""
        return self._seen

    def restore(self, state: pa.Table) -> None:
        """Take over what `state` returned, and prepare the look-up."""
        self._pending = []
        self._seen = state
        rows = state["row"].to_numpy()
        ids = state["id"].filter(pa.array(rows > 0))
        self._rows = rows[rows > 0]
        texts = pa.types.is_string(ids.type)
        self._row_of = dict(zip(ids.to_pylist(), self._rows.tolist(), strict=True)) if texts else None
        self._ids = np.empty(0, dtype=np.int64) if texts else ids.to_numpy()
        self._direct: np.ndarray | None = None
        # Python's integers: the span of int64 ids may overflow int64.
        span = int(self._ids[-1]) - int(self._ids[0]) + 1 if len(self._ids) else 0
        if 0 < span <= _MAX_DIRECT_SPAN_PER_ID * len(self._ids):
            self._direct = np.zeros(span, dtype=np.int64)
            self._direct[self._ids - self._ids[0]] = self._rows

    def report(self) -> dict[str, int]:
        """Ids with a row, ids that were seen but have none, and how many rows there are to give out."""
        seen = 0 if self._seen is None else self._seen.num_rows
        known = 0 if self._seen is None else len(self._rows)
        return {"known": known, "out_of_vocabulary": seen - known, "capacity": self.num_embeddings - 1}

    def _known(self) -> list[pa.Table]:
        return [] if self._seen is None or not self._seen.num_rows else [self._seen]


def _check_type(fitted: pa.DataType, found: pa.DataType) -> None:
    if fitted != found:
        raise ValueError(f"holds {found} where the vocabulary was fitted on {fitted}; cast one of them")


def _sum_counts(tables: list[pa.Table]) -> pa.Table:
    summed = pa.concat_tables(tables).group_by("id").aggregate([("count", "sum")])
    return summed.rename_columns({"count_sum": "count"}).select(["id", "count"]).sort_by("id")
