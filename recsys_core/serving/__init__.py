"""A released bundle at work: raw user columns in, items and scores out.

A bundle is a folder with `query/` (scripted tower), `item/`, `features/` (fitted engine), `index/` (FAISS and id map)
and `queries.parquet` (a few real queries, with the vectors they had when the day was measured), by which
`python -m recsys_core.serving BUNDLE` checks it.
Legend: B queries, D embedding, K items wanted, N ids of all rows.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys_core.features import Encoded, Engine, _types

QUERIES = "queries.parquet"
_TOLERANCE = 1e-4  # of the vectors' largest number: float32 sums in another order
_MIN_OVERLAP = 0.9


class Report(NamedTuple):
    """What `Bundle.check` saw."""

    num_queries: int
    max_abs_difference: float
    overlap: float


class Bundle:
    """One release, loaded. Safe to use from several threads."""

    def __init__(self, engine: Engine, tower: Any, index: Any, item_ids: pa.ChunkedArray) -> None:
        """Use `load`."""
        self.engine, self._tower, self._index, self._item_ids = engine, tower, index, item_ids

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Load the bundle in `directory` onto the CPU.

        Raises:
            ValueError: a piece is missing or damaged; names it.
        """
        pieces = {name: directory / name for name in ("query/model.pt", "index/index.faiss", "index/id_map.parquet")}
        for path in pieces.values():
            if not path.is_file():
                raise ValueError(f"{path}: missing, so {directory} is no whole bundle; download the release again")
        # Here and not above: the process that publishes reads this module too, and needs neither.
        import faiss
        import torch

        readers = (torch.jit.load, faiss.read_index, pq.read_table)
        tower, index, id_map = (_read(path, reader) for path, reader in zip(pieces.values(), readers, strict=True))
        return cls(Engine.load(directory / "features"), tower.eval(), index, id_map["item_id"])

    def table(self, columns: Mapping[str, Iterable[Any]]) -> pa.Table:
        """Return loose values by column (None: unknown) as the typed table that `recommend` takes.

        Raises:
            ValueError: a column is missing, or its values do not fit its type; names the column.
        """
        arrays: dict[str, pa.Array] = {}
        schema = self.engine.schema("query")
        for name, field in schema.items():
            if name not in columns:
                raise ValueError(
                    f"column {name!r} is missing (found {', '.join(columns)}); give null where it is unknown"
                )
            try:
                arrays[name] = _types.column(columns[name], _types.parse(field["type"]))
            except ValueError as error:
                raise ValueError(f"column {name!r} takes {field['type']}: {error}") from None
        num_rows = len(next(iter(arrays.values()), ()))
        # Of a column that held nothing while the engine was fitted nothing is known, its type neither.
        arrays |= {name: pa.nulls(num_rows) for name in self.engine.columns("query") if name not in schema}
        return pa.table(arrays)

    def embed(self, table: pa.Table) -> np.ndarray:
        """float32 [B, D]: the vectors of the rows of `table`, which has the engine's query columns.

        Raises:
            ValueError: a column is missing, or holds what its feature cannot take.
        """
        return self._embedded(self.engine.transform(table, "query"))

    def recommend(self, table: pa.Table, k: int) -> pa.Table:
        """Return, row by row, `item_ids` (best first, at most `k`) and their `scores`.

        Where features leave ids out, `out_of_range` says how many of the row's, by feature.
        """
        if k < 1:
            raise ValueError(f"k is {k}; ask for at least one item")
        encoded = self.engine.transform(table, "query")
        found = self._search(self._embedded(encoded), k)
        if not (dropping := self.engine.dropping("query")):
            return found
        none = np.zeros(encoded.num_rows, np.int32)
        counts = [encoded.sparse[name].left_out for name in dropping]
        fields = [pa.array(none if count is None else count, pa.int64()) for count in counts]
        return found.append_column("out_of_range", pa.StructArray.from_arrays(fields, names=list(dropping)))

    def _embedded(self, encoded: Encoded) -> np.ndarray:
        import torch

        from recsys_core.towers import tower_inputs

        with torch.inference_mode():
            return self._tower(tower_inputs(encoded)).numpy()

    def check(self, queries: pa.Table, k: int) -> Report:
        """Recommend for `queries` (query columns and `embedding`) and compare with what was measured.

        Raises:
            ValueError: other vectors come out, or the index answers differently.
        """
        wanted = np.stack(queries["embedding"].to_numpy(zero_copy_only=False))
        difference = float(np.abs(self.embed(queries) - wanted).max())
        if not difference <= _TOLERANCE * max(1.0, float(np.abs(wanted).max())):
            raise ValueError(f"the query tower gives other vectors than the day's measured ones (by {difference:.3g})")
        expected = self._search(wanted, k)["item_ids"].to_pylist()
        found = self.recommend(queries, k)
        shared = sum(len(set(a) & set(b)) for a, b in zip(expected, found["item_ids"].to_pylist(), strict=True))
        overlap = shared / max(1, sum(map(len, expected)))
        if overlap < _MIN_OVERLAP:
            raise ValueError(f"only {overlap:.0%} of the recommended items are those of the measured vectors")
        scores = found["scores"].combine_chunks().flatten().to_numpy()
        if not np.isfinite(scores).all():
            raise ValueError("scores that are no numbers; the item vectors in the index are damaged")
        return Report(queries.num_rows, difference, overlap)

    def _search(self, vectors_BD: np.ndarray, k: int) -> pa.Table:
        import faiss

        # The setting is per thread. torch brings an OpenMP of its own: two pools on the same cores wait for each other.
        faiss.omp_set_num_threads(1)
        scores_BK, rows_BK = self._index.search(vectors_BD, k)
        filled_BK = rows_BK >= 0
        offsets = pa.array(np.concatenate([[0], np.cumsum(filled_BK.sum(axis=1))]), pa.int32())
        item_ids = self._item_ids.take(pa.array(rows_BK[filled_BK])).combine_chunks()
        return pa.table(
            {
                "item_ids": pa.ListArray.from_arrays(offsets, item_ids),
                "scores": pa.ListArray.from_arrays(offsets, pa.array(scores_BK[filled_BK])),
            }
        )


def _read(path: Path, reader: Callable[[str], Any]) -> Any:
    try:
        return reader(str(path))
    except (RuntimeError, pa.ArrowInvalid) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{path}: damaged ({reason}); download the release again") from None
