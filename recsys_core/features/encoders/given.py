"""Encoding `given`: the rows of a list of ids, or of a file's."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import xxhash

from recsys_core.features import base
from recsys_core.features.encoders import row_of


class Given(base.Encoder):
    """The ids of a given list have the rows behind `num_oov`, in its order."""

    def __init__(self, given: Sequence[str | int] | Path, num_oov: int) -> None:
        """Take the list, or read the file of an id a line.

        Raises:
            ValueError: there is no such file, an id is there twice, or none is.
        """
        place = "vocabulary"
        if isinstance(given, Path):
            place = str(given)
            if not given.is_file():
                raise ValueError(f"vocabulary_file {place}: no such file")
            given = given.read_text().splitlines()
        texts = [str(one) for one in given]
        twice = [text for text, count in Counter(texts).items() if count > 1]
        if twice or not texts:
            raise ValueError(f"{place}: {f'{twice[0]!r} is there twice' if twice else 'no ids'}; name each id once")
        self._rows = {text: row for row, text in enumerate(texts, num_oov)}
        self.ids = tuple(texts)
        self._num_oov = self.first_id_row = num_oov
        self.num_embeddings = len(texts) + num_oov
        digest = xxhash.xxh3_64_hexdigest("\n".join(texts).encode())
        self.spec = {"encoding": "given", "num_oov": num_oov, "num_ids": len(texts), "digest": digest}

    def encode(self, values: pa.Array) -> np.ndarray:
        """Return the rows; every distinct id is looked up once."""
        distinct = values.dictionary_encode()
        texts = distinct.dictionary.cast(pa.string())
        rows = np.fromiter((self._rows.get(text, -1) for text in texts.to_pylist()), np.int64, len(texts))
        unknown = rows < 0
        rows[unknown] = row_of.out_of_vocabulary(texts.filter(pa.array(unknown)), self._num_oov)
        return rows[distinct.indices.to_numpy(zero_copy_only=False)]

    def known(self) -> pa.Table:
        """The ids of the list, as texts."""
        return pa.table({"id": pa.array(self.ids), "row": pa.array([*self._rows.values()], pa.int64())})

    def own_rows(self, ids: pa.Array) -> np.ndarray:
        """int64 [N]: the rows of the list's ids, -1 for others."""
        texts = row_of.as_type(ids, pa.string()).to_pylist()
        return np.fromiter((self._rows.get(text, -1) for text in texts), np.int64, len(texts))
