"""Feature kind `text_normalize`: texts brought to one spelling, whole or cut into words or characters."""

import unicodedata
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import PositiveInt

from recsys_core.features import _derived
from recsys_core.features.columns.lists import Lists, listed


class Config(_derived.Config):
    """Keys of a text_normalize feature.

    In this order: Unicode `form` (NFKC makes full-width letters plain), `case`, `strip_accents`, `punctuation` and
    symbols replaced by spaces if `remove_punctuation`, runs of white space made one space and taken off the ends, at
    most `max_characters` kept. `split: words` cuts at spaces, `characters` after every character but spaces.
    """

    kind: Literal["text_normalize"] = "text_normalize"
    form: Literal["none", "NFC", "NFD", "NFKC", "NFKD"] = "NFKC"
    case: Literal["none", "lower", "upper"] = "lower"
    strip_accents: bool = False
    remove_punctuation: bool = False
    max_characters: PositiveInt | None = None
    split: Literal["none", "words", "characters"] = "none"


class Feature(_derived.Feature):
    """Texts, or lists of them."""

    def __init__(self, config: Config) -> None:
        """Read the `column`."""
        super().__init__(config)
        self._config = config

    def make(self, columns: Sequence[pa.Array]) -> pa.Array:
        """Texts of the column's shape, or lists of parts; an empty text is null."""
        lists = Lists(columns[0])
        texts = lists.values
        if not (pa.types.is_string(texts.type) or pa.types.is_large_string(texts.type) or pa.types.is_null(texts.type)):
            raise ValueError(f"its type {columns[0].type} holds no texts; cast it to string")
        distinct = texts.cast(pa.string()).dictionary_encode()
        normal = self._normalized(distinct.dictionary)
        indices = distinct.indices
        if self._config.split == "none":
            return lists.back(pc.if_else(pc.equal(normal, ""), None, normal).take(indices))
        if self._config.split == "words":
            parts = pc.split_pattern(normal, " ")
        else:
            # No function of Arrow's cuts everywhere; each distinct text is cut once.
            parts = pa.array([list(text.replace(" ", "")) for text in normal.to_pylist()], pa.list_(pa.string()))
        taken = parts.take(indices)
        counts = pc.list_value_length(taken).to_numpy(zero_copy_only=False)
        flat = pc.list_flatten(taken)
        filled = np.asarray(pc.not_equal(flat, "")).astype(bool)
        owners = np.repeat(lists.owners, counts)[filled]
        return listed(flat.filter(pa.array(filled)), np.bincount(owners, minlength=len(lists.lengths)))

    def _normalized(self, texts: pa.Array) -> pa.Array:
        config = self._config
        if config.form != "none":
            texts = _formed(texts, config.form)
        if config.strip_accents:
            texts = _formed(pc.replace_substring_regex(_formed(texts, "NFD"), r"\p{Mn}+", ""), "NFC")
        if config.case != "none":
            texts = (pc.utf8_lower if config.case == "lower" else pc.utf8_upper)(texts)
        if config.remove_punctuation:
            texts = pc.replace_substring_regex(texts, r"[\p{P}\p{S}]+", " ")
        texts = pc.utf8_trim_whitespace(pc.replace_substring_regex(texts, r"\s+", " "))
        return texts if config.max_characters is None else pc.utf8_slice_codeunits(texts, 0, config.max_characters)


def _formed(texts: pa.Array, form: Literal["NFC", "NFD", "NFKC", "NFKD"]) -> pa.Array:
    # Not by Arrow, whose composed forms leave letters and accents apart (25.0); each distinct text once.
    return pa.array([unicodedata.normalize(form, text) for text in texts.to_pylist()], pa.string())
