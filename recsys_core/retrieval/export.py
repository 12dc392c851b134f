"""The export stage of retrieval: each tower as a module of its own, with a signature and a parity check.

Their look-ups are plain torch: what is exported needs neither TorchRec nor its kernels.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import torch
from torch import Tensor, nn

from recsys_core import artifacts
from recsys_core.exported import modules, quantized, scripted
from recsys_core.exported.inputs import tower_inputs
from recsys_core.exported.lookups import Lookup
from recsys_core.exported.parity import engine_of, first_rows, kept_rows
from recsys_core.exported.signature import columns, described
from recsys_core.features import Engine, Side, SparseFeature
from recsys_core.loading.batch import jagged
from recsys_core.models.base import RetrievalModel, SequenceModel
from recsys_core.progress import Event, Sink
from recsys_core.retrieval.found import hit_rate
from recsys_core.retrieval.requests import Export as Config
from recsys_core.retrieval.requests import ExportRequest as Request
from recsys_core.training import restored

__all__ = ["Config", "Request", "run"]

_SIDES: tuple[Side, Side] = ("query", "item")
_COST_K = 50


class ExportedTower(nn.Module):
    """One tower over the tensors of `inputs.tower_inputs`: Dict[str, Tensor] → [rows, D]."""

    def __init__(
        self,
        tower: nn.Module,
        features: tuple[SparseFeature, ...],
        weights: Mapping[str, Tensor],
        table_dtype: str = "trained",
    ) -> None:
        """`features` in the order of the tower's columns.

        `weights` are the tables' [num_embeddings, dim] by name; features that share one share its memory.
        """
        super().__init__()
        self.tower = tower
        tables = quantized.tables_of(weights, table_dtype)
        self.pooled = nn.ModuleList(quantized.pooled_lookup(feature, tables[feature.table]) for feature in features)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        """Pool each feature's rows and run the tower; a row without ids pools to zeros."""
        pooled: list[Tensor] = []
        for feature in self.pooled:
            pooled.append(feature(inputs))  # noqa: PERF401 - TorchScript has no comprehension over modules
        return self.tower(torch.cat(pooled, dim=1), inputs["dense"])


class ExportedSequenceTower(nn.Module):
    """A query tower that reads sequences in their order, over the tensors of `inputs.tower_inputs`."""

    unpooled_names: list[str]

    def __init__(self, model: SequenceModel, weights: Mapping[str, Tensor], table_dtype: str = "trained") -> None:
        """`weights` as those of `ExportedTower`."""
        super().__init__()
        self.tower = model.query
        tables = quantized.tables_of(weights, table_dtype)
        pooled, unpooled = model.tables.pooled[0].features, model.tables.unpooled_features
        self.pooled = nn.ModuleList(quantized.pooled_lookup(feature, tables[feature.table]) for feature in pooled)
        self.unpooled = nn.ModuleList(Lookup(feature, tables[feature.table]) for feature in unpooled)
        self.unpooled_names = [feature.name for feature in unpooled]

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        """Look each feature's rows up and run the tower; [rows, D]."""
        dense = inputs["dense"]
        pooled: list[Tensor] = [dense[:, :0]]
        for feature in self.pooled:
            pooled.append(feature(inputs))  # noqa: PERF401 - TorchScript has no comprehension over modules
        unpooled: list[Tensor] = []
        lengths: list[Tensor] = []
        for i, feature in enumerate(self.unpooled):
            unpooled.append(feature(inputs))
            lengths.append(inputs[self.unpooled_names[i] + ".lengths"])
        return self.tower(torch.cat(pooled, dim=1), dense, unpooled, lengths)


def towers(model: RetrievalModel, weights: Mapping[str, Tensor], table_dtype: str = "trained") -> dict[Side, nn.Module]:
    """Return both towers over the tensors of `inputs.tower_inputs`; see `ExportedTower`."""
    of_query, of_item = model.tables.pooled
    return {
        "query": ExportedSequenceTower(model, weights, table_dtype)
        if isinstance(model, SequenceModel)
        else ExportedTower(model.query, of_query.features, weights, table_dtype),
        "item": ExportedTower(model.item, of_item.features, weights, table_dtype),
    }


def run(request: Request, sink: Sink) -> artifacts.ExportedModel:
    """Export both towers, save them, load them back and compare with the checkpoint on real rows.

    Raises:
        ValueError: they differ by more than the tolerance, or torch cannot export them; nothing is exported then.
    """
    config, folder = request.config, engine_of(request.engine, request.data, request.checkpoint)
    if config.table_dtype != "trained" and request.data is None:
        raise ValueError(f"export.table_dtype: {config.table_dtype}, and no data to measure what it costs; name some")
    engine, rows = Engine.load(folder), _rows(request)
    with artifacts.pending(request.output) as aside:
        model = restored.whole(request.model, engine, RetrievalModel, request.checkpoint, aside.path)
        weights = scripted.table_weights(model.tables)
        differences: list[float] = []
        expected = _eager(model, engine, rows)
        for side, tower in towers(model, weights, config.table_dtype).items():
            inputs = tower_inputs(engine.transform(rows[side], side))
            difference = scripted.save(
                tower,
                aside.path / side,
                inputs,
                expected[side] if config.table_dtype == "trained" else scripted.eager(tower, inputs),
                config.parity_tolerance,
                called=f"{side} tower",
                signature=_signature(side, engine, inputs, model, rows[side]),
                form=config.format,
            )
            differences.append(difference)
            sink(Event(stage="export", done=len(differences), total=2, unit="towers"))
        shutil.copytree(folder, aside.path / "features")
        return aside.commit(
            artifacts.ExportedModel,
            request,
            num_rows=sum(table.num_rows for table in rows.values()),
            embedding_dim=model.embedding_dim,
            similarity=model.similarity,
            parity_max_abs_difference=max(differences),
            format=config.format,
            table_dtype=config.table_dtype,
            cost=None if config.table_dtype == "trained" else _cost(request, engine, model, weights, aside.path),
        )


def _rows(request: Request) -> dict[Side, pa.Table]:
    """Return the rows that are compared on: of the day that is measured, or of the training."""
    count, data = request.config.parity_rows, request.data
    if data is None:
        return {side: kept_rows(request.checkpoint, side, count) for side in _SIDES}
    return {"query": first_rows(data.ground_truth, count), "item": first_rows(data.items, count)}


def _cost(
    request: Request, engine: Engine, model: RetrievalModel, weights: Mapping[str, Tensor], exported: Path
) -> artifacts.Cost:
    """Measure the towers with their tables as they were trained, and as they are exported."""
    assert request.data is not None, "checked at the start"
    trained: dict[Side, modules.Module] = {**towers(model, weights)}
    found: dict[Side, modules.Module] = {side: modules.load(exported / side) for side in _SIDES}
    data, k = request.data, min(_COST_K, request.data.num_items)
    (before, num_rows), (after, _) = (hit_rate(towers, engine, data, k) for towers in (trained, found))
    return artifacts.Cost(metric=f"hit_rate@{k}", num_rows=num_rows, trained=before, exported=after)


def _eager(model: RetrievalModel, engine: Engine, rows: Mapping[Side, pa.Table]) -> dict[Side, Tensor]:
    """Return what the model in training form makes of the rows, by side."""
    query, item = engine.transform(rows["query"], "query"), engine.transform(rows["item"], "item")
    with torch.no_grad():
        sparse = jagged(query, item, max(query.num_rows, item.num_rows))
        query_BD, item_MD = model(sparse, torch.from_numpy(query.dense), torch.from_numpy(item.dense))
    return {"query": query_BD, "item": item_MD}


def _signature(
    side: Side, engine: Engine, inputs: Mapping[str, Tensor], model: RetrievalModel, rows: pa.Table
) -> dict[str, object]:
    return {
        "side": side,
        **columns(engine, (side,), [rows]),
        "inputs": described(inputs),
        "output": {"name": "embedding", "dtype": "float32", "shape": ["rows", model.embedding_dim]},
        "similarity": model.similarity,
    }
