"""Feature kind `tokenize`: texts as the tokens of a Hugging Face tokenizer, read from a local file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import PositiveInt, model_validator

from recsys_core.features import _derived, base
from recsys_core.features.columns import flat, lists


class Config(_derived.Config):
    """Keys of a tokenize feature.

    `tokenizer_file` is a `tokenizer.json`; its text travels inside of the saved engine. The value is a list of token
    ids (`give: ids`, for an output with `encoding: identity` and the tokenizer's size) or of the tokens themselves.
    """

    kind: Literal["tokenize"] = "tokenize"
    tokenizer_file: Path | None = None
    tokenizer_json: str | None = None
    give: Literal["ids", "tokens"] = "ids"
    special_tokens: bool = False
    max_tokens: PositiveInt | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.tokenizer_file is None) == (self.tokenizer_json is None):
            raise ValueError("tokenizer_file: name the tokenizer.json (a saved engine holds its text instead)")
        return self


class Feature(_derived.Feature):
    """A list of tokens per row."""

    def __init__(self, config: Config) -> None:
        """Read the tokenizer.

        Raises:
            ValueError: there is no such file, or it holds no tokenizer.
        """
        super().__init__(config)
        import tokenizers

        self._config = config
        if config.tokenizer_json is not None:
            self._json = config.tokenizer_json
        else:
            assert config.tokenizer_file is not None
            if not config.tokenizer_file.is_file():
                raise ValueError(f"tokenizer_file {config.tokenizer_file}: no such file")
            self._json = config.tokenizer_file.read_text(encoding="utf-8")
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(self._json)
        except Exception as error:
            raise ValueError(f"tokenizer_file {config.tokenizer_file}: no tokenizer ({error})") from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()

    def make(self, columns: Sequence[pa.Array]) -> pa.Array:
        """Lists of int64 or of texts; those of several texts in a row one after another."""
        texts, lengths = flat.bags(columns[0])
        if not (pa.types.is_string(texts.type) or pa.types.is_null(texts.type)):
            raise ValueError(f"its type {columns[0].type} holds no texts; cast it to string")
        distinct = texts.cast(pa.string()).dictionary_encode()
        encodings = self._tokenizer.encode_batch(
            distinct.dictionary.to_pylist(), add_special_tokens=self._config.special_tokens
        )
        tokens = [encoding.ids if self._config.give == "ids" else encoding.tokens for encoding in encodings]
        kind = pa.int64() if self._config.give == "ids" else pa.string()
        taken = pa.array([one[: self._config.max_tokens] for one in tokens], pa.list_(kind)).take(distinct.indices)
        counts = np.asarray(pc.list_value_length(taken), np.int64)
        owners = np.repeat(np.arange(len(lengths)), lengths)
        per_row = np.bincount(owners, counts, minlength=len(lengths)).astype(np.int64)
        return lists.listed(pc.list_flatten(taken), per_row)

    def portable(self) -> base.FeatureConfig:
        """The config with the tokenizer in it."""
        config = super().portable()
        return config.model_copy(update={"tokenizer_file": None, "tokenizer_json": self._json})
