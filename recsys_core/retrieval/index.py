"""The index stage: item vectors in an index, and the map from row to item id; of a day's model, or of any table."""

from pathlib import Path
from typing import Annotated, Self

from recsys_core import artifacts, indexes, readers
from recsys_core.indexes import Config as Indexing
from recsys_core.lookup import OneOf
from recsys_core.progress import Sink
from recsys_core.retrieval import own_tables, vectors
from recsys_core.retrieval.own_tables import ItemTable
from recsys_core.retrieval.requests import IndexRequest as Request
from recsys_core.retrieval.vectors import Items


class TableRequest(artifacts.Request):
    """What an index of a table of the user's own needs; `fingerprint` is the table's."""

    items: ItemTable
    fingerprint: dict[str, str]
    config: Annotated[Indexing, OneOf("recsys_core.indexes")]
    metric: indexes.Metric
    seed: int

    @classmethod
    def of(cls, items: ItemTable, config: Indexing, metric: indexes.Metric, seed: int, output: Path) -> Self:
        """Return the request for `output`."""
        return cls(
            items=items,
            fingerprint=readers.fingerprint(items.path),
            config=config,
            metric=metric,
            seed=seed,
            output=output,
            config_hash=artifacts.digest_of(config.model_dump(mode="json"))[:12],
            code_version=artifacts.code_version(),
        )


def run(request: Request, sink: Sink) -> artifacts.Index:
    """Build the index by inner product over every item of the embeddings, any number from 1 on.

    Raises:
        ValueError: an item vector with NaN or infinity, an id twice, or what the kind cannot hold.
    """
    items = vectors.read_items(request.embeddings.items)
    return _build(request, request.config, items, "ip", request.seed, sink)


def run_table(request: TableRequest, sink: Sink) -> artifacts.Index:
    """Build the index over every item of a table.

    Raises:
        ValueError: see `own_tables.read_items`; what the kind cannot hold; or something else than an index is there.
    """
    there = request.output
    if there.exists() and not (there / artifacts.MANIFEST).exists():
        raise ValueError(f"{there}: no index is there, and it would be lost; name another folder")
    items = own_tables.read_items(request.items, sink, allow_zero=request.metric == "l2")
    return _build(request, request.config, items, request.metric, request.seed, sink)


def _build(
    request: artifacts.Request, config: Indexing, items: Items, metric: indexes.Metric, seed: int, sink: Sink
) -> artifacts.Index:
    index = indexes.build(config, items.vectors, items.ids, metric, seed, sink)
    with artifacts.pending(request.output) as aside:
        index.save(aside.path)
        return aside.commit(
            artifacts.Index,
            request,
            num_rows=len(items.ids),
            kind=config.kind,
            factory=index.layout,
            metric=metric,
            embedding_dim=items.vectors.shape[1],
            num_items=len(items.ids),
        )
