"""Feature kind `id`: ids of one column (a value or a list of values per row) as rows of an embedding table.

Encodings: `vocabulary` (fitted; row 0 for ids without a row of their own), `dynamic` (likewise, but rows are taken
back too), `given` (a list or a file), `hash`, `multi_hash` and `identity`.
"""

from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
from pydantic import Field, PositiveInt, model_validator

from recsys_core.features import base, hashing
from recsys_core.features.columns import bags as _bags
from recsys_core.features.encoders import dynamic as _dynamic
from recsys_core.features.encoders.given import Given
from recsys_core.features.encoders.hashed import Hash, MultiHash
from recsys_core.features.encoders.identity import Identity
from recsys_core.features.encoders.vocabulary import Vocabulary


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
    hash: hashing.Name = "xxh3"
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

    @model_validator(mode="before")
    @classmethod
    def _implied(cls, section: Any) -> Any:
        """Take the encoding from the key that goes with no other."""
        if not isinstance(section, dict) or "encoding" in section:
            return section
        implied = {"vocabulary": "given", "vocabulary_file": "given", "dynamic": "dynamic"}
        encodings = (encoding for key, encoding in implied.items() if section.get(key) is not None)
        return section | {"encoding": next(encodings, cls.model_fields["encoding"].default)}

    @model_validator(mode="after")
    def _agree(self) -> Self:
        given = self.vocabulary is not None or self.vocabulary_file is not None
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
        return column.to_numpy() if column.type == pa.int64() and not column.null_count else None

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
            given = config.vocabulary if config.vocabulary is not None else config.vocabulary_file
            assert given is not None
            return Given(given, config.num_oov)
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
