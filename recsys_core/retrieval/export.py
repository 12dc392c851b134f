"""The export stage of retrieval: each tower as a scripted module, with a signature and a parity check.

Their look-ups are plain torch: what is exported needs neither TorchRec nor its kernels.
"""

import shutil
from collections.abc import Mapping

import pyarrow as pa
import torch
from torch import Tensor, nn

from recsys_core import artifacts
from recsys_core.exported import scripted
from recsys_core.exported.inputs import tower_inputs
from recsys_core.exported.lookups import PooledLookup
from recsys_core.exported.parity import first_rows
from recsys_core.exported.signature import described
from recsys_core.features import Engine, Side, SparseFeature
from recsys_core.loading.batch import jagged
from recsys_core.models.base import RetrievalModel
from recsys_core.progress import Event, Sink
from recsys_core.retrieval.requests import Export as Config
from recsys_core.retrieval.requests import ExportRequest as Request
from recsys_core.training import restored

__all__ = ["Config", "Request", "run"]

_SIDES: tuple[Side, Side] = ("query", "item")


class ExportedTower(nn.Module):
    """One tower over the tensors of `inputs.tower_inputs`: Dict[str, Tensor] → [rows, D]."""

    def __init__(self, tower: nn.Module, features: tuple[SparseFeature, ...], weights: Mapping[str, Tensor]) -> None:
        """`features` in the order of the tower's columns.

        `weights` are the tables' [num_embeddings, dim] by name; features that share one share its memory.
        """
        super().__init__()
        self.tower = tower
        tables = {name: nn.Embedding.from_pretrained(weight) for name, weight in weights.items()}
        self.pooled = nn.ModuleList(PooledLookup(feature, tables[feature.table]) for feature in features)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        """Pool each feature's rows and run the tower; a row without ids pools to zeros."""
        pooled: list[Tensor] = []
        for feature in self.pooled:
            pooled.append(feature(inputs))  # noqa: PERF401 - TorchScript has no comprehension over modules
        return self.tower(torch.cat(pooled, dim=1), inputs["dense"])


def run(request: Request, sink: Sink) -> artifacts.ExportedModel:
    """Script both towers, save them, load them back and compare with the checkpoint on real rows.

    Raises:
        ValueError: they differ by more than the tolerance; nothing is exported then.
    """
    engine = Engine.load(request.data.engine)
    model = restored.whole(request.model, engine, RetrievalModel, request.checkpoint)
    weights = scripted.table_weights(model.tables)
    rows = {
        "query": first_rows(request.data.ground_truth, request.config.parity_rows),
        "item": first_rows(request.data.items, request.config.parity_rows),
    }
    with artifacts.pending(request.output) as aside:
        differences: list[float] = []
        expected = _eager(model, engine, rows)
        for side, pooled in zip(_SIDES, model.tables.pooled, strict=True):
            inputs = tower_inputs(engine.transform(rows[side], side))
            difference = scripted.save(
                ExportedTower(getattr(model, side), pooled.features, weights),
                aside.path / side,
                inputs,
                expected[side],
                request.config.parity_tolerance,
                called=f"{side} tower",
                signature=_signature(side, engine, inputs, model),
            )
            differences.append(difference)
            sink(Event(stage="export", done=len(differences), total=2, unit="towers"))
        shutil.copytree(request.data.engine, aside.path / "features")
        return aside.commit(
            artifacts.ExportedModel,
            request,
            num_rows=sum(table.num_rows for table in rows.values()),
            embedding_dim=model.embedding_dim,
            similarity=model.similarity,
            parity_max_abs_difference=max(differences),
        )


def _eager(model: RetrievalModel, engine: Engine, rows: Mapping[str, pa.Table]) -> dict[str, Tensor]:
    """Return what the model in training form makes of the rows, by side."""
    query, item = engine.transform(rows["query"], "query"), engine.transform(rows["item"], "item")
    with torch.no_grad():
        sparse = jagged(query, item, max(query.num_rows, item.num_rows))
        query_BD, item_MD = model(sparse, torch.from_numpy(query.dense), torch.from_numpy(item.dense))
    return {"query": query_BD, "item": item_MD}


def _signature(side: Side, engine: Engine, inputs: Mapping[str, Tensor], model: RetrievalModel) -> dict[str, object]:
    return {
        "side": side,
        "columns": engine.columns(side),
        "inputs": described(inputs),
        "output": {"name": "embedding", "dtype": "float32", "shape": ["rows", model.embedding_dim]},
        "similarity": model.similarity,
    }
