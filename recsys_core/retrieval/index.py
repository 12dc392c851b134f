"""The index stage: item vectors in an index, and the map from row to item id; of a day's model, or of any table."""

import contextlib
import tempfile
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self

import numpy as np

from recsys_core import artifacts, indexes, readers
from recsys_core.indexes import Config as Indexing
from recsys_core.lookup import OneOf
from recsys_core.progress import Event, Sink
from recsys_core.retrieval import own_tables, recall, vectors
from recsys_core.retrieval.own_tables import ItemTable
from recsys_core.retrieval.requests import IndexRequest as Request
from recsys_core.retrieval.vectors import Items


class TableRequest(artifacts.Request):
    """What an index of a table of the user's own needs; `fingerprint` is the table's.

    `queries` are those whose exact lists, of each length of `recall_ks`, show what the index returns; None: items,
    which find themselves.
    With `memory_bytes` it is built on disk, and takes at most that much memory.
    """

    items: ItemTable
    fingerprint: dict[str, str]
    config: Annotated[Indexing, OneOf("recsys_core.indexes")]
    metric: indexes.Metric
    seed: int
    queries: ItemTable | None = None
    recall_ks: tuple[int, ...] = (50,)
    memory_bytes: int | None = None

    @classmethod
    def of(cls, items: ItemTable, config: Indexing, output: Path, **others: Any) -> Self:
        """Return the request for `output`."""
        return cls(
            items=items,
            fingerprint=readers.fingerprint(items.path),
            config=config,
            output=output,
            **others,
            config_hash=artifacts.digest_of(config.model_dump(mode="json"))[:12],
            code_version=artifacts.code_version(),
        )


def run(request: Request, sink: Sink) -> artifacts.Index:
    """Build the index by inner product over every item of the embeddings, any number from 1 on.

    Raises:
        ValueError: an item vector with NaN or infinity, an id twice, or what the kind cannot hold.
    """
    items = vectors.read_items(request.embeddings.items)
    queries = items.vectors
    if request.embeddings.num_queries:
        queries = vectors.read_vectors(request.embeddings.queries, "user_id")
    return _build(request, items, _Wanted(request.config, "ip", request.seed, queries, request.recall_ks), sink)


def run_table(request: TableRequest, sink: Sink) -> artifacts.Index:
    """Build the index over every item of a table.

    Raises:
        ValueError: see `own_tables.read_items`, and what the kind cannot hold.
    """
    with contextlib.ExitStack() as inside:
        aside = plan = None
        if request.memory_bytes is not None:
            request.output.parent.mkdir(parents=True, exist_ok=True)
            place = tempfile.TemporaryDirectory(prefix=f".{request.output.name}.", dir=request.output.parent)
            aside = Path(inside.enter_context(place)) / "vectors"
            # What does not fit is refused before it is read.
            num_items, dim, id_bytes = own_tables.shape(request.items)
            plan = indexes.plan_on_disk(request.config, num_items, dim, request.metric, id_bytes, request.memory_bytes)
            sink(Event(stage="index", total=num_items, message=f"plan: {plan.describe(num_items)}"))
        items = own_tables.read_items(request.items, sink, allow_zero=request.metric == "l2", aside=aside)
        wanted = _Wanted(
            request.config,
            request.metric,
            request.seed,
            _queries(request, items, sink),
            request.recall_ks,
            plan,
        )
        return _build(request, items, wanted, sink)


def _queries(request: TableRequest, items: Items, sink: Sink) -> np.ndarray:
    if request.queries is None:
        return items.vectors
    allow_zero = request.metric == "l2"
    queries = own_tables.read_items(request.queries, sink, allow_zero=allow_zero, unique=False).vectors
    if queries.shape[1] != items.vectors.shape[1]:
        raise ValueError(
            f"{request.queries.path}: vectors of {queries.shape[1]} dimensions where those of {request.items.path} "
            f"have {items.vectors.shape[1]}"
        )
    return queries


class UpdateRequest(artifacts.Request):
    """What an index with other items needs: `base`, items that it gets, and ids, `removed`, of those that it loses.

    An item that it has gets its new vector.
    """

    base: Path
    base_digest: str
    items: ItemTable | None
    removed: ItemTable | None
    fingerprints: dict[str, dict[str, str]]

    @classmethod
    def of(cls, base: Path, items: ItemTable | None, removed: ItemTable | None, output: Path) -> Self:
        """Return the request for `output`."""
        tables = {"items": items, "removed": removed}
        return cls(
            base=base,
            base_digest=artifacts.Index.load(base).digest,
            items=items,
            removed=removed,
            fingerprints={name: readers.fingerprint(one.path) for name, one in tables.items() if one is not None},
            output=output,
            config_hash="",
            code_version=artifacts.code_version(),
        )


def update(request: UpdateRequest, sink: Sink) -> artifacts.Index:
    """Write the index `base` with its items changed, and its cells or codes as they were built.

    Raises:
        ValueError: the base is none, vectors or ids of another kind than it has, or a kind that cannot be changed so.
    """
    base, index = artifacts.Index.load(request.base), indexes.load(request.base)
    gone = np.empty(0, np.int64)
    if request.removed is not None:
        ids = own_tables.read_ids(request.removed)
        gone = vectors.positions(ids, index.ids, request.removed.path)
    unknown, num_removed = int((gone < 0).sum()), int((gone >= 0).sum())
    replaced = np.empty(0, np.int64)
    items = None
    if request.items is not None:
        items = own_tables.read_items(request.items, sink, allow_zero=index.metric == "l2")
        if items.vectors.shape[1] != index.dim:
            raise ValueError(
                f"{request.items.path}: vectors of {items.vectors.shape[1]} dimensions where those of {request.base} "
                f"have {index.dim}"
            )
        at = vectors.positions(items.ids, index.ids, request.items.path)
        replaced = at[at >= 0]
    rows = np.unique(np.concatenate([gone[gone >= 0], replaced]))
    if len(rows):
        index.remove(rows)
    if items is not None:
        index.add(items.vectors, items.ids)
    num_items = len(index.ids) - index.ids.null_count
    if not num_items:
        raise ValueError(f"{request.base}: no item would be left; keep some, or build an index of others")
    num_added = 0 if items is None else len(items.ids) - len(replaced)
    reason = f"{num_added:,} items added, {len(replaced):,} changed, {num_removed:,} removed"
    reason += f" ({unknown:,} more not there)" if unknown else ""
    sink(Event(stage="index", done=num_items, total=num_items, message=f"plan: {reason}"))
    with artifacts.pending(request.output) as aside:
        index.save(aside.path)
        return aside.commit(
            artifacts.Index,
            request,
            num_rows=num_items,
            num_items=num_items,
            reason=reason,
            **{name: getattr(base, name) for name in ("kind", "factory", "metric", "embedding_dim", "search")},
        )


class _Wanted(NamedTuple):
    config: Indexing
    metric: indexes.Metric
    seed: int
    queries: np.ndarray
    recall_ks: tuple[int, ...]
    plan: indexes.Plan | None = None


def _build(request: artifacts.Request, items: Items, wanted: _Wanted, sink: Sink) -> artifacts.Index:
    config, metric = wanted.config, wanted.metric
    with artifacts.pending(request.output) as aside:
        if wanted.plan is None:
            index = indexes.build(config, items.vectors, items.ids, metric, wanted.seed, sink)
        else:
            index = indexes.build_on_disk(
                config, wanted.plan, items.vectors, items.ids, metric, wanted.seed, aside.path, sink
            )
        rows = recall.sample(len(wanted.queries), *items.vectors.shape)
        found = recall.choose(config, index, items.vectors, wanted.queries[rows], wanted.recall_ks, sink)
        sink(Event(stage="index", done=len(items.ids), total=len(items.ids), message=f"plan: {found.reason}"))
        index.save(aside.path)
        artifacts.write_text(aside.path / "recall.json", found.model_dump_json(indent=2))
        return aside.commit(
            artifacts.Index,
            request,
            num_rows=len(items.ids),
            kind=config.kind,
            factory=index.layout,
            metric=metric,
            search={} if found.parameter is None else {found.parameter: index.value},
            ann_recall=found.ann_recall,
            reason=found.reason,
            embedding_dim=items.vectors.shape[1],
            num_items=len(items.ids),
        )
