"""A released retrieval model: raw user columns in, items and scores out.

Legend: B queries, D embedding, K items wanted, N ids of all rows.
"""

from collections.abc import Iterable, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recsys_core import integrity
from recsys_core.artifacts import HISTORY, ExportedModel, Frozen
from recsys_core.artifacts.release import QUERIES, SETTINGS
from recsys_core.exported.files import module_file
from recsys_core.features import Encoded, Engine
from recsys_core.metrics.retrieval import NO_ITEM, Lists
from recsys_core.retrieval import vectors
from recsys_core.serving import asked, base, tables

_SEEN = f"{HISTORY}item_id"
_PARTS = ("index/index.faiss", "index/id_map.parquet")
_TOLERANCE = 1e-4  # of the vectors' largest number: float32 sums in another order
_MIN_OVERLAP = 0.9
_CHECKED_K = 10


class Report(NamedTuple):
    """What `Recommender.check` saw."""

    num_queries: int
    max_abs_difference: float
    overlap: float


class Settings(Frozen):
    """How a bundle answers where a request does not say; bundles of before there was a choice have no such file."""

    product: Literal["retrieval"] = "retrieval"
    mask_seen: bool = True


class Recommender(base.Service):
    """A bundle with `query/` (scripted tower), `item/`, `features/` (fitted engine), `index/` (FAISS and id map).

    `queries.parquet` has a few real queries, with the vectors they had when the day was measured.
    """

    optional = (asked.EXCLUDE,)

    def __init__(
        self, engine: Engine, tower: Any, index: Any, item_ids: pa.ChunkedArray, settings: Settings | None = None
    ) -> None:
        """Use `load`."""
        self.settings = settings or Settings()
        self.engine, self._tower, self._index, self._item_ids = engine, tower, index, item_ids

    @classmethod
    def load(cls, directory: Path) -> Self:
        """See `base.Service`."""
        tower_file = module_file(directory / "query")
        files = (tower_file, *(directory / part for part in _PARTS))
        base.verify(directory, [file.relative_to(directory).as_posix() for file in files], ExportedModel)
        # Here and not above: the process that publishes reads this module too, and needs neither.
        import faiss

        from recsys_core.exported import modules

        readers = (modules.read, faiss.read_index, pq.read_table)
        tower, index, id_map = (base.read(file, one) for file, one in zip(files, readers, strict=True))
        path = directory / SETTINGS
        settings = integrity.read_record(Settings, path) if path.exists() else None
        return cls(Engine.load(directory / "features"), tower, index, id_map["item_id"], settings)

    def table(self, columns: Mapping[str, Iterable[Any]]) -> pa.Table:
        """Return loose values by column (None: unknown) as the typed table that `recommend` takes.

        Raises:
            ValueError: see `tables.table`; or a history has another length than the row's others; names the column.
        """
        made = tables.table(self.engine, ("query",), columns)
        _refuse_unequal({name: made[name].combine_chunks() for name in self.engine.histories()})
        return made

    def embed(self, table: pa.Table) -> np.ndarray:
        """float32 [B, D]: the vectors of the rows of `table`, which has the engine's query columns.

        Raises:
            ValueError: a column is missing, or holds what its feature cannot take.
        """
        return self._embedded(self.engine.transform(table, "query"))

    def answer(self, columns: Mapping[str, Iterable[Any]], params: Mapping[str, Any]) -> pa.Table:
        """Return what `recommend` does, of loose values by column and of parameters that no one has checked yet.

        Raises:
            ValueError: see `asked.params`, `asked.limit` and `table`.
        """
        wanted = asked.params(params)
        own = dict(columns)
        excluded = own.pop(asked.EXCLUDE, None)
        asked.limit(max((len(values) for values in own.values() if isinstance(values, Sized)), default=0), 1)
        table = self.table(own)
        asked.limit(table.num_rows, min(wanted.k, self._index.ntotal))
        lists: list[pa.Array] = []
        kind = self._item_ids.type
        if wanted.exclude:
            ids = tables.typed([wanted.exclude], asked.EXCLUDE, pa.list_(kind), f"item ids, which are {kind}")
            lists.append(ids.take(pa.array(np.zeros(table.num_rows, np.int64))))
        if excluded is not None:
            lists.append(tables.typed(excluded, asked.EXCLUDE, pa.list_(kind), f"lists of item ids, which are {kind}"))
        return self.recommend(table, wanted.k, exclude=lists, mask_seen=wanted.mask_seen)

    def recommend(
        self, table: pa.Table, k: int, *, exclude: Sequence[pa.Array] = (), mask_seen: bool | None = None
    ) -> pa.Table:
        """Return, row by row, `item_ids` (best first, at most `k`) and their `scores`.

        As where the hit rate is measured, items that a row has seen take up no places: those of its column
        `history__item_id`, if the model has that and unless `mask_seen` is false (None: what the settings of the bundle
        say), and those of its list in each of `exclude` (a list of ids for each row; ids of no item change nothing). A
        row gets fewer than `k` items only where there are no more. Where features leave ids out, `out_of_range` says
        how many of the row's, by feature.

        Raises:
            ValueError: `k` is below 1, or the columns hold what their features cannot take.
        """
        if k < 1:
            raise ValueError(f"k is {k}; ask for at least one item")
        mask = self._mask(table, exclude, mask_seen=mask_seen)
        encoded = self.engine.transform(table, "query")
        vectors_BD = self._embedded(encoded)
        tables.refuse_infinite(vectors_BD, "vector")
        return tables.with_left_out(self._search(vectors_BD, k, mask), self.engine, {"query": encoded})

    def _mask(self, table: pa.Table, exclude: Sequence[pa.Array], *, mask_seen: bool | None = None) -> Lists:
        mask_seen = self.settings.mask_seen if mask_seen is None else mask_seen
        lists = [*exclude]
        if mask_seen and _SEEN in table.column_names and not pa.types.is_null(table[_SEEN].type):
            lists.append(table[_SEEN].combine_chunks())
        items = self._item_ids.combine_chunks()
        parts = [vectors.lists(one, items, _SEEN) for one in lists]
        owners = np.concatenate([np.empty(0, np.int64), *(part.owners for part in parts)])
        order = np.argsort(owners, kind="stable")
        values = np.concatenate([np.empty(0, np.int64), *(part.values for part in parts)])[order]
        return Lists(values, np.searchsorted(owners[order], np.arange(table.num_rows + 1)))

    def _embedded(self, encoded: Encoded) -> np.ndarray:
        import torch

        from recsys_core.exported.inputs import tower_inputs

        with torch.inference_mode():
            return self._tower(tower_inputs(encoded)).numpy()

    def check_kept(self, directory: Path) -> str:
        """See `base.Service`: the queries have the vectors that they were measured with, and get the items of these."""
        report = self.check(pq.read_table(directory / QUERIES), _CHECKED_K)
        return (
            f"{report.num_queries} queries served; their vectors differ from the measured ones by at most "
            f"{report.max_abs_difference:.2g}, {report.overlap:.0%} of the items are the same"
        )

    def check(self, queries: pa.Table, k: int) -> Report:
        """Recommend for `queries` (query columns and `embedding`) and compare with what was measured.

        Raises:
            ValueError: other vectors come out, or the index answers differently.
        """
        wanted = np.stack(queries["embedding"].to_numpy(zero_copy_only=False))
        difference = float(np.abs(self.embed(queries) - wanted).max())
        if not difference <= _TOLERANCE * max(1.0, float(np.abs(wanted).max())):
            raise ValueError(f"the query tower gives other vectors than the day's measured ones (by {difference:.3g})")
        expected = self._search(wanted, k, self._mask(queries, ()))["item_ids"].to_pylist()
        found = self.recommend(queries, k)
        shared = sum(len(set(a) & set(b)) for a, b in zip(expected, found["item_ids"].to_pylist(), strict=True))
        overlap = shared / max(1, sum(map(len, expected)))
        if overlap < _MIN_OVERLAP:
            raise ValueError(f"only {overlap:.0%} of the recommended items are those of the measured vectors")
        scores = found["scores"].combine_chunks().flatten().to_numpy()
        if not np.isfinite(scores).all():
            raise ValueError("scores that are no numbers; the item vectors in the index are damaged")
        return Report(queries.num_rows, difference, overlap)

    def _search(self, vectors_BD: np.ndarray, k: int, mask: Lists) -> pa.Table:
        num_rows, num_items = len(vectors_BD), self._index.ntotal
        # Before anything is allocated.
        k = min(k, num_items)
        ids_BK = np.full((num_rows, k), NO_ITEM, np.int64)
        scores_BK = np.full((num_rows, k), -np.inf, np.float32)
        self._fill(ids_BK, scores_BK, vectors_BD, mask, np.arange(num_rows), whole=False)
        known = mask.known()
        num_masked = np.bincount(
            np.unique(known.owners * num_items + known.values) // max(1, num_items), minlength=num_rows
        )
        # The cells that an approximate search visits may hold fewer than there are.
        short = np.flatnonzero((ids_BK >= 0).sum(axis=1) < np.minimum(k, num_items - num_masked))
        if len(short):
            self._fill(ids_BK, scores_BK, vectors_BD, mask, short, whole=True)
        filled_BK = ids_BK >= 0
        offsets = pa.array(np.concatenate([[0], np.cumsum(filled_BK.sum(axis=1))]), pa.int32())
        item_ids = self._item_ids.take(pa.array(ids_BK[filled_BK])).combine_chunks()
        return pa.table(
            {
                "item_ids": pa.ListArray.from_arrays(offsets, item_ids),
                "scores": pa.ListArray.from_arrays(offsets, pa.array(scores_BK[filled_BK])),
            }
        )

    def _fill(
        self,
        ids_BK: np.ndarray,
        scores_BK: np.ndarray,
        vectors_BD: np.ndarray,
        mask: Lists,
        rows: np.ndarray,
        *,
        whole: bool,
    ) -> None:
        """Search for `rows`, in the `whole` index or as far as it was set to, and write what is not masked."""
        import faiss

        # The setting is per thread. torch brings an OpenMP of its own: two pools on the same cores wait for each other.
        faiss.omp_set_num_threads(1)
        parameters: Any = None
        if whole and isinstance(self._index, faiss.IndexIVF):
            parameters = faiss.SearchParametersIVF(nprobe=self._index.nlist)
        elif whole and isinstance(self._index, faiss.IndexHNSW):
            parameters = faiss.SearchParametersHNSW(efSearch=self._index.ntotal)

        def find(some: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
            scores, ids = self._index.search(vectors_BD[rows[some]], width, params=parameters)
            return ids, scores

        search = vectors.Search(find, np.empty(len(rows)))
        for some, ids, scores in vectors.masked_lists(search, mask.take(rows), self._index.ntotal, ids_BK.shape[1]):
            ids_BK[rows[some]], scores_BK[rows[some]] = ids, scores


def _refuse_unequal(histories: Mapping[str, pa.Array]) -> None:
    """Refuse a row whose histories have different lengths: each entry is of one and the same interaction."""
    first = known = None
    for name, array in histories.items():
        if not pa.types.is_list(array.type):
            continue
        lengths = pc.list_value_length(array)
        if known is not None:
            differs = pc.not_equal(known, lengths).fill_null(fill_value=False).to_numpy(zero_copy_only=False)
            if differs.any():
                row = int(differs.argmax())
                raise ValueError(
                    f"row {row}: column {name!r} has {lengths[row]} entries and {first!r} {known[row]}; they "
                    "are of the same interactions, so give both as many"
                )
        first, known = first or name, lengths if known is None else pc.coalesce(known, lengths)
