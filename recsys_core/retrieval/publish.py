"""The publish stage of retrieval: the query tower and the index, released so that user columns give items."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from recsys_core import launch, readers
from recsys_core.artifacts import Embeddings, Evaluation, ExportedModel, Index, Release, TrainingData, digest_of
from recsys_core.artifacts.release import ITEMS, QUERIES
from recsys_core.features import Engine
from recsys_core.registry import bundle, publish
from recsys_core.tracking import Tracker

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.models import ModelSignature


class Config(publish.Config):
    """YAML section `publish`."""

    num_queries: int = Field(
        default=16, ge=1, description="real queries kept in the bundle, which it must serve to go live"
    )


class Request(publish.Request[Config, ExportedModel]):
    """What publishing needs.

    `data`, `embeddings` and `index` are of what is released, which may have learned from more than what `evaluation` is
    of. `mask_seen` is how the hit rate was measured.
    """

    data: TrainingData
    embeddings: Embeddings
    index: Index
    evaluation: Evaluation
    mask_seen: bool

    @property
    def bundle_digest(self) -> str:
        """See `publish.Request`."""
        # Bundles of before requests could differ in this masked, and keep their digests.
        unmasked = [] if self.mask_seen else ["mask_seen: false"]
        return digest_of([self.model.digest, self.index.digest, *unmasked])

    @property
    def metrics(self) -> dict[str, float]:
        """See `publish.Request`."""
        measured = {"hit_rate": self.evaluation.exact.hit_rate, "ann_recall": self.evaluation.ann_recall}
        return {f"{name}_at_{k}": value for name, values in measured.items() for k, value in values.items()}

    @property
    def ground_truth_digest(self) -> str:
        """See `publish.Request`."""
        return self.evaluation.ground_truth_digest

    @property
    def num_rows(self) -> int:
        """See `publish.Request`: the items that can be found."""
        return self.index.num_items

    def bundle(self) -> "Bundle":
        """See `publish.Request`."""
        kept = queries(self.model, self.data, self.embeddings, self.config.num_queries)
        return Bundle(self.model, self.index, kept, mask_seen=self.mask_seen, items=self.data.items)


class Bundle(bundle.Bundle):
    """Two towers, of which the query's is served, with an index of what the item's has made."""

    product, kind, needed = "retrieval", "two-tower retrieval", ("faiss-cpu",)

    def __init__(
        self, model: ExportedModel, index: Index, queries: pa.Table, *, mask_seen: bool, items: Path | None = None
    ) -> None:
        """`mask_seen` is what the service does with a row's seen items where the request does not say.

        `items`: the folder of the items' fields, by which a request may filter; without it none may.
        """
        super().__init__(model, {"mask_seen": mask_seen})
        self._items = items
        self._engine = Engine.load(model.engine)
        self._index, self._queries, self._mask_seen = index, queries, mask_seen

    def add(self, directory: Path) -> dict[str, str]:
        """See `bundle.Bundle`."""
        (directory / "index").mkdir()
        for file in self._index.files:
            (directory / "index" / file.path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self._index.path / file.path, directory / "index" / file.path)
        pq.write_table(self._queries, directory / QUERIES)
        if self._items is not None:
            pq.write_table(item_fields(self._items, self._index), directory / ITEMS, compression="zstd")
        return {f"index/{file.path}": file.digest for file in self._index.files}

    def signature(self) -> "ModelSignature":
        """Declare the raw user columns, the answer, and the parameters: MLflow drops those that no signature has."""
        from mlflow.models import ModelSignature
        from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
        from mlflow.types.schema import Array

        item_id = pq.read_schema(self._index.id_map).field("item_id").type
        ids = DataType.long if pa.types.is_integer(item_id) else DataType.string
        columns = bundle.inputs(self._engine, "query")
        outputs = [ColSpec(Array(ids), "item_ids"), ColSpec(Array(DataType.double), "scores")]
        return ModelSignature(
            inputs=Schema([*columns, ColSpec(Array(ids), "exclude", required=False)]),
            outputs=Schema([*outputs, *bundle.left_out(self._engine, "query")]),
            params=ParamSchema(
                [
                    ParamSpec("k", DataType.long, 20),
                    ParamSpec("exclude", ids, [], shape=(-1,)),
                    ParamSpec("mask_seen", DataType.boolean, self._mask_seen),
                ]
            ),
        )

    def example(self) -> "pd.DataFrame":
        """See `bundle.Bundle`."""
        numbers = bundle.number_columns(self._engine, "query")
        return example(self._queries.drop_columns("embedding"), numbers, self._engine.histories())


def run(request: Request, tracker: Tracker, how: launch.Config) -> Release:
    """See `publish.run`."""
    return publish.run(request, tracker, how)


def queries(model: ExportedModel, data: TrainingData, embeddings: Embeddings, num_rows: int) -> pa.Table:
    """Return the first queries of the ground truth, each with its measured vector; both folders are in one order."""
    columns = Engine.load(model.engine).columns("query")
    wanted = list(dict.fromkeys(["user_id", *columns]))
    given = readers.read_all(readers.opened(data.ground_truth), wanted, num_rows)
    measured = readers.read_all(readers.opened(embeddings.queries), ["user_id", "embedding"], num_rows)
    assert given["user_id"].equals(measured["user_id"]), "embeddings are in the order of the ground truth"
    return given.select(columns).append_column("embedding", measured["embedding"])


def item_fields(items: Path, index: Index) -> pa.Table:
    """Return `item_id` and the items' fields, in the order of the index."""
    # Configs are read without what this imports.
    from recsys_core.retrieval import vectors

    reader = readers.opened(items)
    fields = readers.read_all(reader, [name for name in reader.schema.names if name != "sampling_weight"])
    wanted = pq.read_table(index.id_map)["item_id"].combine_chunks()
    rows = vectors.positions(wanted, fields["item_id"].combine_chunks(), str(items))
    assert (rows >= 0).all(), "the index holds items of the item table"
    return fields.take(pa.array(rows)).combine_chunks()


def example(queries: pa.Table, counted: set[str], histories: tuple[str, ...]) -> "pd.DataFrame":
    """Return the first two of the queries as a client would send them."""
    import pandas as pd

    rows = queries.slice(0, 2).to_pylist()
    # As objects: pandas would make NaN of what is unknown, which is no JSON.
    return pd.DataFrame([_without_nulls(row, counted, histories) for row in rows], dtype=object)


def _without_nulls(row: dict[str, Any], counted: set[str], histories: tuple[str, ...]) -> dict[str, Any]:
    """Leave nulls out of a row's lists, which MLflow's hold none of (an item whose brand is unknown, say).

    `histories` are of the same interactions: what one of them lacks is left out of all.
    """
    lists = {name: value for name, value in row.items() if isinstance(value, list)}
    columns = [lists[name] for name in histories if name in lists and name not in counted]
    whole = [all(entry is not None for entry in entries) for entries in zip(*columns, strict=True)]
    for name, value in lists.items():
        if name in histories and whole:
            row[name] = [entry for entry, keeps in zip(value, whole, strict=True) if keeps]
        elif name not in counted:
            row[name] = [entry for entry in value if entry is not None]
    return row
