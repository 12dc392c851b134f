"""The export stage: each tower as a scripted module over plain tensors, with a signature and a parity check.

An exported tower needs neither TorchRec nor its kernels: its tables are embedding bags of plain torch, so the same
file runs in Python and in LibTorch. TorchScript is deprecated in torch 2.13; only this file and the loaders of its
output depend on it.
"""

import json
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import pyarrow as pa
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from recsys_core import artifacts, checkpoint, models, readers
from recsys_core.artifacts import Frozen, TrainingData, write_text
from recsys_core.batch import jagged
from recsys_core.features import Encoded, Engine, Side, SparseFeature
from recsys_core.lookup import OneOf
from recsys_core.models.base import RetrievalModel
from recsys_core.models.blocks.embeddings import pool
from recsys_core.progress import Event, Sink
from recsys_core.towers import MODEL, SIGNATURE, tower_inputs

_SIDES: tuple[Side, Side] = ("query", "item")


class Config(Frozen):
    """YAML section `export`."""

    parity_rows: int = Field(
        default=1_000, ge=1, description="real rows on which scripted and eager towers are compared"
    )
    parity_tolerance: float = Field(default=1e-5, ge=0, description="largest absolute difference that passes")


class Request(artifacts.Request):
    """What the export needs."""

    config: Config
    model: Annotated[Frozen, OneOf("recsys_core.models")]
    data: TrainingData
    checkpoint: artifacts.Checkpoint


class Lookup(nn.Module):
    """One feature's embeddings, times their weights, out of the tensors of `towers.tower_inputs`."""

    def __init__(self, feature: SparseFeature, table: nn.Embedding) -> None:
        """`table` may be shared with other features."""
        super().__init__()
        self.table = table
        self.name: str = feature.name
        self.weighted: bool = feature.weighted
        self.pooling: str = feature.pooling
        self.tile_length: int = feature.tile_length

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return [N, D], unpooled."""
        values_ND = self.table(inputs[self.name + ".values"]).float()
        if self.weighted:
            values_ND = values_ND * inputs[self.name + ".weights"].unsqueeze(1)
        return values_ND


class PooledLookup(Lookup):
    """One feature's pooled embeddings."""

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return [B, D], or of a tile [B, tile_length * D]; a row without ids pools to zeros."""
        ids, lengths = inputs[self.name + ".values"], inputs[self.name + ".lengths"]
        weights: Tensor | None = None
        if self.weighted:
            weights = inputs[self.name + ".weights"]
        elif self.pooling == "mean" or self.pooling == "sum":  # noqa: PLR1714 - for TorchScript
            offsets = torch.cumsum(lengths, 0) - lengths
            return functional.embedding_bag(ids, self.table.weight, offsets, mode=self.pooling).float()
        values_ND = self.table(ids).float()
        if weights is not None:
            values_ND = values_ND * weights.unsqueeze(1)
        return pool(values_ND, lengths, self.pooling, self.tile_length, weights)


class ExportedTower(nn.Module):
    """One tower over the tensors of `towers.tower_inputs`: Dict[str, Tensor] → [rows, D]."""

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
    model = models.build(request.model, engine, RetrievalModel)
    state = model.state_dict()
    checkpoint.load_weights(request.checkpoint.state, state, alone=True)
    model.load_state_dict(state)
    model.eval()
    weights = {name.split(".")[-2]: weight for name, weight in model.tables.state_dict().items()}
    rows = {
        "query": first_rows(request.data.ground_truth, request.config.parity_rows),
        "item": first_rows(request.data.items, request.config.parity_rows),
    }
    with artifacts.pending(request.output) as aside:
        differences: list[float] = []
        expected = _eager(model, engine, rows)
        for side, pooled in zip(_SIDES, model.tables.pooled, strict=True):
            tower = ExportedTower(getattr(model, side), pooled.features, weights).eval()
            encoded = engine.transform(rows[side], side)
            folder = aside.path / side
            folder.mkdir()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                torch.jit.script(tower).save(str(folder / MODEL))
                loaded = torch.jit.load(str(folder / MODEL))
            write_text(folder / SIGNATURE, json.dumps(_signature(side, engine, encoded, model), indent=2))
            with torch.no_grad():
                found = loaded(tower_inputs(encoded))
            differences.append(parity(f"{side} tower", found, expected[side], request.config.parity_tolerance))
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


def first_rows(directory: Path, num_rows: int) -> pa.Table:
    """Return the first rows of a folder, as many as there are up to `num_rows`."""
    return readers.read_all(readers.opened(directory), num_rows=num_rows)


def _eager(model: RetrievalModel, engine: Engine, rows: Mapping[str, pa.Table]) -> dict[str, Tensor]:
    """Return what the model in training form makes of the rows, by side."""
    query, item = engine.transform(rows["query"], "query"), engine.transform(rows["item"], "item")
    with torch.no_grad():
        sparse = jagged(query, item, max(query.num_rows, item.num_rows))
        query_BD, item_MD = model(sparse, torch.from_numpy(query.dense), torch.from_numpy(item.dense))
    return {"query": query_BD, "item": item_MD}


def parity(what: str, found: Tensor, expected: Tensor, tolerance: float) -> float:
    """Return the largest difference.

    Raises:
        ValueError: it is more than `tolerance`.
    """
    difference = float((found - expected).abs().max())
    if not difference <= tolerance:
        raise ValueError(
            f"the scripted {what} differs from the checkpoint by {difference:.3g} on real rows, more than "
            f"export.parity_tolerance={tolerance:g}; nothing was exported"
        )
    return difference


def _signature(side: Side, engine: Engine, encoded: Encoded, model: RetrievalModel) -> dict[str, object]:
    return {
        "side": side,
        "columns": engine.columns(side),
        "inputs": described(tower_inputs(encoded)),
        "output": {"name": "embedding", "dtype": "float32", "shape": ["rows", model.embedding_dim]},
        "similarity": model.similarity,
    }


def described(inputs: Mapping[str, Tensor]) -> list[dict[str, object]]:
    """Return names, types and shapes of an exported module's inputs, for its signature."""
    return [
        {
            "name": name,
            "dtype": str(tensor.dtype).removeprefix("torch."),
            "shape": ["values" if name.endswith((".values", ".weights")) else "rows", *tensor.shape[1:]],
        }
        for name, tensor in inputs.items()
    ]
