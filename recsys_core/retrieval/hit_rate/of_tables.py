"""The hit rate of vectors in tables of the user's own: full ranking of what each request wants, exact or by an index.

The same lists, ties and metrics as of a day's evaluation. A request that wants nothing counts in no figure; it has a
row in the details.

Shapes: Q requests, B requests of one block.
"""

import contextlib
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import pyarrow as pa
from pydantic import Field

from recsys_core import columns, indexes, writers
from recsys_core.artifacts import Frozen
from recsys_core.indexes import Config as Indexing
from recsys_core.indexes import Index, Metric, flat
from recsys_core.lookup import OneOf
from recsys_core.metrics.retrieval import NO_ITEM, Lists, Ranked
from recsys_core.progress import Event, Sink
from recsys_core.retrieval import own_tables, recall, vectors
from recsys_core.retrieval.hit_rate import interests, shares
from recsys_core.retrieval.hit_rate.contenders import Block, Day, Held, Observe, by_index, exact
from recsys_core.retrieval.own_tables import ItemTable, Requests, RequestTable
from recsys_core.retrieval.vectors import Items, Queries, Search

_SHOWN = ("hit_rate", "recall", "ndcg")
_WRITTEN_AHEAD = 2
_FLAT = "Flat"
_TOTALS = pa.schema(
    [
        ("k", pa.int64()),
        ("num_queries", pa.int64()),
        ("num_ground_truth", pa.int64()),
        *((name, pa.float64()) for name in _SHOWN),
    ]
)


class Request(Frozen):
    """What is measured. `index` is built over the items, unless `folder` has one of them.

    `output` and `details` are tables to write, of the figures by K and of each request's list.
    """

    items: ItemTable
    requests: RequestTable
    ks: tuple[int, ...] = Field(min_length=1)
    metric: Metric = "ip"
    index: Annotated[Indexing, OneOf("recsys_core.indexes")] = flat.Config()
    folder: Path | None = None
    seed: int = 0
    output: str | None = None
    details: str | None = None


class Figures(Frozen):
    """Metrics by K, see `metrics.retrieval.Ranked`, of the `num_queries` requests that want something."""

    num_queries: int
    num_ground_truth: int
    hit_rate: dict[str, float]
    recall: dict[str, float]
    ndcg: dict[str, float]


class Measured(NamedTuple):
    """What came of it.

    `num_unknown`: wanted items that are not among the items; `num_empty`: requests that want none.
    """

    figures: Figures
    num_items: int
    num_unknown: int
    num_empty: int
    layout: str


class _Ranking(NamedTuple):
    """How the items `ids`, with vectors of `dim` numbers, are ranked for some requests.

    `search` masks what they have seen where `masks` says so.
    """

    ids: pa.Array
    dim: int
    kind: str
    layout: str
    search: Callable[[Requests], Search]
    masks: bool = False


def run(request: Request, sink: Sink) -> Measured:
    """Measure, and write what is to be written; that appears whole when all is measured, or not at all.

    Raises:
        ValueError: a table, an index or a vector that cannot be measured, see `own_tables`; names it.
    """
    with contextlib.ExitStack() as inside:
        loaded, aside = None, None
        if request.folder is not None:
            loaded = indexes.load(request.folder)
            if loaded.is_on_disk:
                # Of so many items neither the vectors nor the index fit in memory.
                place = tempfile.TemporaryDirectory(prefix=f".{request.folder.name}.", dir=request.folder.parent)
                aside = Path(inside.enter_context(place)) / "vectors"
        items = own_tables.read_items(request.items, sink, allow_zero=request.metric == "l2", aside=aside)
        held, num_keep = Held.of(items.vectors), max(request.ks) + 1
        if loaded is None and isinstance(request.index, flat.Config):

            def search(some: Requests) -> Search:
                return interests.by_request(exact(held, some.vectors, request.metric), some, num_keep)

            return _measured(request, _Ranking(items.ids, items.vectors.shape[1], "flat", _FLAT, search), sink)
        index = _built(request, items, sink) if loaded is None else _checked(request, items, loaded)
        rows = _rows(index, items)

        def search_index(some: Requests) -> Search:
            return interests.by_request(_search(index, rows, held, some), some, num_keep)

        ranking = _Ranking(items.ids, items.vectors.shape[1], index.kind, index.layout, search_index)
        return _measured(request, ranking, sink)


def run_lists(request: Request, lists: shares.Lists, sink: Sink) -> Measured:
    """Measure exact lists that processes have made, as `run` does.

    Raises:
        ValueError: an item is there twice, or `run`'s.
    """
    ids = own_tables.read_ids(request.items)
    return _measured(request, _Ranking(ids, lists.dim, "flat", _FLAT, lists.search, masks=True), sink)


def _measured(request: Request, ranking: _Ranking, sink: Sink) -> Measured:
    allow_zero = request.metric == "l2"
    total = own_tables.num_rows(request.requests.path, [request.requests.id_column])
    sums = _Sums(request.ks)
    done = 0

    def tick(phase: str, num_rows: int) -> None:
        nonlocal done
        done += num_rows
        sink(Event(stage="hit rate", done=done, total=total, message=phase))

    with details(request, ranking.ids) as made:
        for some in own_tables.read_requests(request.requests, ranking.ids, ranking.dim, allow_zero=allow_zero):
            nothing = Lists(np.empty(0, np.int64), np.zeros(len(some.ids) + 1, np.int64))
            mask = nothing if ranking.masks else some.seen
            day = Day(request.ks, ranking.ids, Queries(some.ids, some.vectors, some.truth, some.seen), mask, tick)
            tally = day.measure(ranking.search(some), ranking.kind, made and made.begin(some))
            sums.add(tally.ranked)
            sums.count(some.truth)
            if made:
                made.end(some, tally.ranks_N)
        figures = sums.figures(request.requests)
        if request.output is not None:
            with writers.written(request.output, _TOTALS) as part:
                part.write(_totals(figures))
    return Measured(figures, len(ranking.ids), sums.num_unknown, sums.num_empty, ranking.layout)


def _built(request: Request, items: Items, sink: Sink) -> Index:
    index = indexes.build(request.index, items.vectors, items.ids, request.metric, request.seed, sink)
    if index.parameter is not None and request.index.value is None:
        allow_zero = request.metric == "l2"
        dim = items.vectors.shape[1]
        some = next(own_tables.read_requests(request.requests, items.ids, dim, allow_zero=allow_zero)).vectors
        rows = recall.sample(len(some), *items.vectors.shape)
        found = recall.choose(request.index, index, items.vectors, some[rows], request.ks, sink)
        sink(Event(stage="index", done=index.num_rows, total=index.num_rows, message=f"plan: {found.reason}"))
    return index


def _checked(request: Request, items: Items, index: Index) -> Index:
    if index.metric != request.metric:
        raise ValueError(f"{request.folder}: an index by {index.metric}, not by {request.metric}; ask for that metric")
    if index.dim != items.vectors.shape[1]:
        raise ValueError(
            f"{request.folder}: an index of {index.dim} dimensions where the items have {items.vectors.shape[1]}"
        )
    num_unknown = int((_rows(index, items)[:-1] < 0).sum()) - index.ids.null_count
    if num_unknown or len(index.ids) - index.ids.null_count != len(items.ids):
        raise ValueError(f"{request.folder}: an index of other items than {request.items.path}")
    return index


def _rows(index: Index, items: Items) -> np.ndarray:
    """int64: the row of `items` that each row of the index is; -1 of a removed one, and behind them for padding."""
    return np.append(vectors.positions(index.ids, items.ids, "the index"), NO_ITEM)


def _search(index: Index, rows: np.ndarray, held: Held, some: Requests) -> Search:
    one = by_index(index, held, some.vectors)
    search = one.find
    if not np.array_equal(rows[:-1], np.arange(len(rows) - 1)):

        def renamed(rows_B: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
            ids, scores = search(rows_B, width)
            return rows[ids], scores

        one = one._replace(find=renamed)
    return one


class _Sums:
    """The sums of which the metrics are quotients, over all requests so far."""

    def __init__(self, ks: tuple[int, ...]) -> None:
        self._sums = {name: {k: np.zeros(2) for k in ks} for name in _SHOWN}
        self.num_queries = self.num_truth = self.num_unknown = self.num_empty = 0

    def count(self, truth: Lists) -> None:
        """Count what some requests want."""
        num_empty = int((truth.lengths == 0).sum())
        self.num_empty += num_empty
        self.num_queries += len(truth.lengths) - num_empty
        self.num_truth += len(truth.values)
        self.num_unknown += int((truth.values < 0).sum())

    def add(self, ranked: Ranked) -> None:
        """Add what those of them found that want something."""
        if not len(ranked.truth.values):
            return
        for name, by_k in self._sums.items():
            for k, both in by_k.items():
                both += [part.sum() for part in ranked.sums(k)[name]]

    def figures(self, requests: RequestTable) -> Figures:
        """Return the metrics.

        Raises:
            ValueError: no request wants anything.
        """
        if not self.num_queries:
            raise ValueError(
                f"{requests.path}: {requests.truth_column} is empty in every row, so there is nothing to find"
            )
        means = {name: {str(k): float(a / b) for k, (a, b) in by_k.items()} for name, by_k in self._sums.items()}
        return Figures.model_validate(means | {"num_queries": self.num_queries, "num_ground_truth": self.num_truth})


class Details:
    """Writes a row per request, in the order of the requests, while the next ones are searched.

    `topk_ids` is the list, best first; `topk_dists` its scores, for l2 squared distances; `hits_at_K` how many of the
    wanted items have a rank of at most K; `hit_ids` those of the longest list; `hit_rate` their share, null of a
    request that wants nothing.
    """

    def __init__(
        self, ks: tuple[int, ...], items: pa.Array, metric: Metric, schema: pa.Schema, part: writers.Writer
    ) -> None:
        self._ks, self._items, self._metric, self._schema, self._part = ks, items, metric, schema, part
        self._pool, self._written = ThreadPoolExecutor(1), deque[Future[None]]()
        self._ids_QK = np.empty((0, max(ks)), np.int64)
        self._scores_QK = np.empty((0, max(ks)), np.float32)

    def begin(self, some: Requests) -> Observe:
        """Make room for the lists of some requests; return what fills it."""
        ids_QK = self._ids_QK = np.empty((len(some.ids), max(self._ks)), np.int64)
        scores_QK = self._scores_QK = np.empty(ids_QK.shape, np.float32)

        def fill(block: Block) -> None:
            ids_QK[block.rows], scores_QK[block.rows] = block.ids[:, :-1], block.scores[:, :-1]

        return fill

    def end(self, some: Requests, ranks_N: np.ndarray) -> None:
        """Write what was filled in."""
        if len(self._written) == _WRITTEN_AHEAD:
            self._written.popleft().result()
        self._written.append(self._pool.submit(self._write, some, ranks_N, self._ids_QK, self._scores_QK))

    def finish(self) -> None:
        """Wait until all is written."""
        while self._written:
            self._written.popleft().result()

    def close(self) -> None:
        """Let the thread go."""
        self._pool.shutdown(cancel_futures=True)

    def _write(self, some: Requests, ranks_N: np.ndarray, ids_QK: np.ndarray, scores_QK: np.ndarray) -> None:
        truth, filled_QK = some.truth, ids_QK >= 0
        hits = {k: np.bincount(truth.owners[ranks_N <= k], minlength=len(some.ids)) for k in self._ks}
        with np.errstate(invalid="ignore"):
            rates = hits[max(self._ks)] / truth.lengths
        offsets = _offsets(filled_QK.sum(axis=1))
        # Lists are hardly ever short, and choosing takes as long as compressing what was chosen.
        ids, scores = (
            (ids_QK.ravel(), scores_QK.ravel()) if filled_QK.all() else (ids_QK[filled_QK], scores_QK[filled_QK])
        )
        found = self._items.take(pa.array(truth.values[ranks_N <= max(self._ks)]))
        made = [
            some.ids,
            pa.ListArray.from_arrays(offsets, self._items.take(pa.array(ids))),
            pa.ListArray.from_arrays(offsets, pa.array(-scores if self._metric == "l2" else scores)),
            *(pa.array(counts.astype(np.int32)) for counts in hits.values()),
            pa.array(rates, mask=truth.lengths == 0),
            pa.ListArray.from_arrays(_offsets(hits[max(self._ks)]), found),
        ]
        self._part.write(pa.table(made, schema=self._schema))


@contextlib.contextmanager
def details(request: Request, items: pa.Array) -> Iterator["Details | None"]:
    """Open the table of details of the items `items`, if there is to be one; it appears when the context ends well."""
    if request.details is None:
        yield None
        return
    requests = own_tables.opened(request.requests.path, [request.requests.id_column])
    schema = pa.schema(
        [
            pa.field("request_id", columns.id_type(requests.schema.field(request.requests.id_column).type)),
            pa.field("topk_ids", pa.list_(items.type)),
            pa.field("topk_dists", pa.list_(pa.float32())),
            *(pa.field(f"hits_at_{k}", pa.int32()) for k in request.ks),
            pa.field("hit_rate", pa.float64()),
            pa.field("hit_ids", pa.list_(items.type)),
        ]
    )
    with writers.written(request.details, schema) as part:
        made = Details(request.ks, items, request.metric, schema, part)
        try:
            yield made
            made.finish()
        finally:
            made.close()


def _totals(figures: Figures) -> pa.Table:
    rows = [
        {"k": int(k), "num_queries": figures.num_queries, "num_ground_truth": figures.num_ground_truth}
        | {name: getattr(figures, name)[k] for name in _SHOWN}
        for k in figures.hit_rate
    ]
    return pa.Table.from_pylist(rows, schema=_TOTALS)


def _offsets(lengths: np.ndarray) -> pa.Array:
    return pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
