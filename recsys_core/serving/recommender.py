"""A released retrieval model: raw user columns in, items and scores out.

Legend: B queries, D embedding.
"""

from collections.abc import Iterable, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recsys_core import indexes, integrity
from recsys_core.artifacts import HISTORY, ExportedModel, Frozen
from recsys_core.artifacts.release import ITEMS, QUERIES, SETTINGS
from recsys_core.exported.files import module_file
from recsys_core.features import Encoded, Engine
from recsys_core.metrics.retrieval import Lists
from recsys_core.serving import asked, base, tables
from recsys_core.serving.fields import Fields
from recsys_core.serving.search import Allowed, Found, Search

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

    `queries.parquet` has a few real queries, with the vectors they had when the day was measured; `items.parquet` the
    fields of the items.
    """

    optional = (asked.EXCLUDE,)

    def __init__(
        self, engine: Engine, tower: Any, search: Search, settings: Settings | None = None, fields: Fields | None = None
    ) -> None:
        """Use `load`."""
        self.settings = settings or Settings()
        self.engine, self._tower, self.search, self.fields = engine, tower, search, fields

    @classmethod
    def load(cls, directory: Path) -> Self:
        """See `base.Service`."""
        tower_file = module_file(directory / "query")
        files = (tower_file, *(directory / part for part in _PARTS))
        base.verify(directory, [file.relative_to(directory).as_posix() for file in files], ExportedModel)
        # Here and not above: the process that publishes reads this module too, and does not need it.
        from recsys_core.exported import modules

        tower = base.read(tower_file, modules.read)
        path = directory / SETTINGS
        settings = integrity.read_record(Settings, path) if path.exists() else None
        try:
            search = Search(indexes.load(directory / "index"))
        except ValueError as error:
            raise ValueError(f"{directory / 'index'}: {error}; {base.AGAIN}") from None
        fields = Fields.read(directory / ITEMS, search) if (directory / ITEMS).exists() else None
        return cls(Engine.load(directory / "features"), tower, search, settings, fields)

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
        asked.limit(table.num_rows, min(wanted.k, self.search.num_items))
        lists: list[pa.Array] = []
        if wanted.exclude:
            kind = self.search.ids.type
            ids = tables.typed([wanted.exclude], asked.EXCLUDE, pa.list_(kind), f"item ids, which are {kind}")
            lists.append(ids.take(pa.array(np.zeros(table.num_rows, np.int64))))
        if excluded is not None:
            lists.append(self.excluded(excluded))
        return self.recommend(table, wanted.k, exclude=lists, mask_seen=wanted.mask_seen)

    def excluded(self, lists: Iterable[Any]) -> pa.Array:
        """Return loose lists of item ids, one for each row (None: an empty one), as `recommend` takes them.

        Raises:
            ValueError: an id is none of the type that ids have.
        """
        kind = self.search.ids.type
        return tables.typed(lists, asked.EXCLUDE, pa.list_(kind), f"lists of item ids, which are {kind}")

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
        found, encoded = self.find(table, [k] * table.num_rows, exclude=exclude, mask_seen=[mask_seen] * table.num_rows)
        offsets = pa.array(found.offsets, pa.int32())
        item_ids = self.search.ids.take(pa.array(found.rows))
        answers = pa.table(
            {
                "item_ids": pa.ListArray.from_arrays(offsets, item_ids),
                "scores": pa.ListArray.from_arrays(offsets, pa.array(found.scores)),
            }
        )
        return tables.with_left_out(answers, self.engine, {"query": encoded})

    def find(
        self,
        table: pa.Table,
        ks: Sequence[int],
        *,
        exclude: Sequence[pa.Array] = (),
        mask_seen: Sequence[bool | None] = (),
        only: Sequence[Allowed | None] = (),
    ) -> tuple[Found, Encoded]:
        """Return the items of each row of `table`, and its features; what each row asks for is as of `recommend`.

        `only`: the items that each row may get, None being all.

        Raises:
            ValueError: the columns hold what their features cannot take.
        """
        mask = self._mask(table, exclude, mask_seen)
        encoded = self.engine.transform(table, "query")
        vectors_BD = self._embedded(encoded)
        tables.refuse_infinite(vectors_BD, "vector")
        return self.search.best(vectors_BD, ks, mask, only), encoded

    def _mask(self, table: pa.Table, exclude: Sequence[pa.Array], mask_seen: Sequence[bool | None]) -> Lists:
        parts = [self.search.lists(one, asked.EXCLUDE) for one in exclude]
        masks = np.array([self.settings.mask_seen if one is None else one for one in mask_seen], bool)
        if masks.any() and _SEEN in table.column_names and not pa.types.is_null(table[_SEEN].type):
            seen = self.search.lists(table[_SEEN].combine_chunks(), _SEEN)
            parts.append(seen if masks.all() else _only_of(seen, masks))
        if len(parts) == 1:
            return parts[0]
        owners = np.concatenate([np.empty(0, np.int64), *(part.owners for part in parts)])
        order = np.argsort(owners, kind="stable")
        values = np.concatenate([np.empty(0, np.int64), *(part.values for part in parts)])[order]
        return Lists(values, np.searchsorted(owners[order], np.arange(table.num_rows + 1)))

    def _embedded(self, encoded: Encoded) -> np.ndarray:
        import torch

        from recsys_core.exported.inputs import filled, tower_inputs

        with torch.inference_mode():
            return self._tower(filled(tower_inputs(encoded), encoded.num_rows)).numpy()[: encoded.num_rows]

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
        if wanted.shape[1] != self.search.dim:
            raise ValueError(f"the index has vectors of {self.search.dim} dimensions, and queries {wanted.shape[1]}")
        difference = float(np.abs(self.embed(queries) - wanted).max())
        if not difference <= _TOLERANCE * max(1.0, float(np.abs(wanted).max())):
            raise ValueError(f"the query tower gives other vectors than the day's measured ones (by {difference:.3g})")
        num_rows = queries.num_rows
        best = self.search.best(wanted, [k] * num_rows, self._mask(queries, (), [None] * num_rows))
        expected = np.split(
            self.search.ids.take(pa.array(best.rows)).to_numpy(zero_copy_only=False), best.offsets[1:-1]
        )
        found = self.recommend(queries, k)
        shared = sum(len({*a} & {*b}) for a, b in zip(expected, found["item_ids"].to_pylist(), strict=True))
        overlap = shared / max(1, len(best.rows))
        if overlap < _MIN_OVERLAP:
            raise ValueError(f"only {overlap:.0%} of the recommended items are those of the measured vectors")
        scores = found["scores"].combine_chunks().flatten().to_numpy()
        if not np.isfinite(scores).all():
            raise ValueError("scores that are no numbers; the item vectors in the index are damaged")
        return Report(queries.num_rows, difference, overlap)


def _only_of(lists: Lists, keeps: np.ndarray) -> Lists:
    """Return the lists of the rows that are to be kept, the others' being empty."""
    lengths = np.where(keeps, lists.lengths, 0)
    return Lists(lists.values[np.repeat(keeps, lists.lengths)], np.concatenate([[0], np.cumsum(lengths)]))


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
