"""A released bundle at work: raw user columns in, items and scores out.

A bundle is a folder with `query/` (scripted tower), `item/`, `features/` (fitted engine), `index/` (FAISS and id map)
`queries.parquet` (a few real queries, with the vectors they had when the day was measured), by which
`python -m recsys_core.serving BUNDLE` checks it, and `serving.json` (`Settings`).
Legend: B queries, D embedding, K items wanted, N ids of all rows.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recsys_core import integrity
from recsys_core.artifacts import HISTORY, ExportedModel, Frozen
from recsys_core.features import Encoded, Engine
from recsys_core.features.columns import types
from recsys_core.metrics.retrieval import NO_ITEM, Lists
from recsys_core.retrieval import vectors
from recsys_core.serving import asked

QUERIES = "queries.parquet"
SETTINGS = "serving.json"
_SEEN = f"{HISTORY}item_id"
_TOWERS = "exported_model.json"
_TOLERANCE = 1e-4  # of the vectors' largest number: float32 sums in another order
_MIN_OVERLAP = 0.9
_LARGEST = float(np.finfo(np.float32).max)


class Report(NamedTuple):
    """What `Bundle.check` saw."""

    num_queries: int
    max_abs_difference: float
    overlap: float


class Settings(Frozen):
    """How a bundle answers where a request does not say; bundles of before there was a choice have no such file."""

    mask_seen: bool = True


class Bundle:
    """One release, loaded. Safe to use from several threads."""

    def __init__(
        self, engine: Engine, tower: Any, index: Any, item_ids: pa.ChunkedArray, settings: Settings | None = None
    ) -> None:
        """Use `load`."""
        self.settings = settings or Settings()
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
        _verify(directory)
        # Here and not above: the process that publishes reads this module too, and needs neither.
        import faiss
        import torch

        readers = (torch.jit.load, faiss.read_index, pq.read_table)
        tower, index, id_map = (_read(path, reader) for path, reader in zip(pieces.values(), readers, strict=True))
        path = directory / SETTINGS
        settings = integrity.read_record(Settings, path) if path.exists() else None
        return cls(Engine.load(directory / "features"), tower.eval(), index, id_map["item_id"], settings)

    def table(self, columns: Mapping[str, Iterable[Any]]) -> pa.Table:
        """Return loose values by column (None: unknown) as the typed table that `recommend` takes.

        Raises:
            ValueError: a column is missing, is none of the model's, or holds what does not fit its type, a number that
                no float32 holds, or a history of another length than the row's others; names the column.
        """
        arrays: dict[str, pa.Array] = {}
        schema = self.engine.schema("query")
        # Of a column that held nothing while the engine was fitted nothing is known: it may be there or not.
        if extra := [name for name in columns if name not in self.engine.columns("query")]:
            raise ValueError(
                f"column {asked.shown(extra[0])} is none of the model's, which takes {', '.join(schema)}; leave it out"
            )
        for name, field in schema.items():
            if name not in columns:
                raise ValueError(
                    f"column {name!r} is missing (found {', '.join(columns)}); give null where it is unknown"
                )
            arrays[name] = _typed(columns[name], name, types.parse(field["type"]), field["type"])
        _refuse_unequal({name: arrays[name] for name in self.engine.histories() if name in arrays})
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
            ids = _typed([wanted.exclude], asked.EXCLUDE, pa.list_(kind), f"item ids, which are {kind}")
            lists.append(ids.take(pa.array(np.zeros(table.num_rows, np.int64))))
        if excluded is not None:
            lists.append(_typed(excluded, asked.EXCLUDE, pa.list_(kind), f"lists of item ids, which are {kind}"))
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
        found = self._search(_finite(self._embedded(encoded)), k, mask)
        if not (dropping := self.engine.dropping("query")):
            return found
        none = np.zeros(encoded.num_rows, np.int32)
        counts = [encoded.sparse[name].left_out for name in dropping]
        fields = [pa.array(none if count is None else count, pa.int64()) for count in counts]
        return found.append_column("out_of_range", pa.StructArray.from_arrays(fields, names=list(dropping)))

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


def _typed(values: Iterable[Any], name: str, kind: pa.DataType, wanted: str) -> pa.Array:
    """Return loose values as a column of type `kind`, or one line that names the column."""
    try:
        array = types.column(values, kind)
    except ValueError as error:
        raise ValueError(f"column {name!r} takes {wanted}: {asked.first_line(error)}") from None
    numbers = array
    while pa.types.is_list(numbers.type):
        numbers = numbers.flatten()
    if pa.types.is_floating(numbers.type) and pc.any(pc.greater(pc.abs(numbers), _LARGEST)).as_py():
        raise ValueError(
            f"column {name!r} takes {wanted}: a number is beyond ±{_LARGEST:.3g}; give null where it is unknown"
        )
    return array


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


def _finite(vectors_BD: np.ndarray) -> np.ndarray:
    bad = ~np.isfinite(vectors_BD).all(axis=1)
    if bad.any():
        raise ValueError(f"row {int(bad.argmax())}: numbers too large for the model, which makes no vector of them")
    return vectors_BD


def _verify(directory: Path) -> None:
    """Compare the bundle's files with their digests; one of before there were any has those of its towers alone."""
    try:
        if integrity.verify_sealed(directory) or not (directory / _TOWERS).exists():
            return
        towers = integrity.read_record(ExportedModel, directory / _TOWERS, path=directory)
        integrity.verify(towers.digests())
    except ValueError as error:
        raise ValueError(f"{error}; download the release again") from None


def _read(path: Path, reader: Callable[[str], Any]) -> Any:
    try:
        return reader(str(path))
    except (RuntimeError, pa.ArrowInvalid) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{path}: damaged ({reason}); download the release again") from None
