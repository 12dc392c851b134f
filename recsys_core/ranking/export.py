"""The export stage of ranking: one module over plain tensors, with a signature and a parity check.

Its look-ups are plain torch: what is exported needs neither TorchRec nor its kernels.
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import torch
from torch import Tensor, nn

from recsys_core import artifacts, readers
from recsys_core.artifacts import Cost, ExportedRanker, LabelledData
from recsys_core.artifacts.ranking import Predicts
from recsys_core.distributed import World
from recsys_core.exported import modules, quantized, scripted
from recsys_core.exported.as_model import RankerAsModel
from recsys_core.exported.inputs import ranker_inputs
from recsys_core.exported.lookups import Lookup
from recsys_core.exported.parity import engine_of, kept_rows
from recsys_core.exported.signature import columns, described
from recsys_core.features import Engine, Side
from recsys_core.loading.batch import dense, jagged, numbers
from recsys_core.models.base import RankingModel
from recsys_core.progress import Event, Sink
from recsys_core.ranking import opened
from recsys_core.ranking.objective import joined, scored
from recsys_core.ranking.requests import Export as Config
from recsys_core.ranking.requests import ExportRequest as Request
from recsys_core.training import restored

__all__ = ["Config", "Request", "run"]

_SIDES: tuple[Side, Side] = ("query", "item")
_BATCH_ROWS = 8_192


class Ranker(nn.Module):
    """A ranking model over the tensors of `inputs.ranker_inputs`: Dict[str, Tensor] → logits [rows], or [rows, T]."""

    unpooled_names: list[str]
    number_names: list[str]

    def __init__(
        self,
        model: RankingModel,
        weights: Mapping[str, Tensor],
        numbers: Sequence[str] = (),
        table_dtype: str = "trained",
    ) -> None:
        """`weights` are the tables' [num_embeddings, dim] by name; features that share one share its memory.

        `numbers` names the sequences of numbers, the query's first.
        """
        super().__init__()
        self.head = model.head
        tables = quantized.tables_of(weights, table_dtype)
        features = model.tables.pooled_features
        self.pooled = nn.ModuleList(quantized.pooled_lookup(feature, tables[feature.table]) for feature in features)
        unpooled = model.tables.unpooled_features
        self.unpooled = nn.ModuleList(Lookup(feature, tables[feature.table]) for feature in unpooled)
        self.unpooled_names = [feature.name for feature in unpooled]
        self.number_names = list(numbers)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        """Look each feature's rows up and run the head."""
        pooled: list[Tensor] = []
        for feature in self.pooled:
            pooled.append(feature(inputs))  # noqa: PERF401 - TorchScript has no comprehension over modules
        unpooled: list[Tensor] = []
        counts: list[Tensor] = []
        for i, feature in enumerate(self.unpooled):
            unpooled.append(feature(inputs))
            counts.append(inputs[self.unpooled_names[i] + ".lengths"])
        for name in self.number_names:
            unpooled.append(inputs[name + ".values"])
            counts.append(inputs[name + ".lengths"])
        return self.head(torch.cat(pooled, dim=1), inputs["dense"], unpooled, counts)


def run(request: Request, sink: Sink) -> ExportedRanker:
    """Export the model, save it, load it back and compare with the checkpoint on real rows.

    Raises:
        ValueError: they differ by more than the tolerance, or torch cannot export it; nothing is exported then.
    """
    config, folder = request.config, engine_of(request.engine, request.data, request.checkpoint)
    is_trained = config.table_dtype == "trained"
    if not is_trained and (request.data is None or request.ranking is None):
        raise ValueError(f"export.table_dtype: {config.table_dtype}, and no data to measure what it costs; name some")
    engine, rows = Engine.load(folder), _rows(request)
    query, item = engine.transform(rows, "query"), engine.transform(rows, "item")
    with artifacts.pending(request.output) as aside:
        model = restored.whole(request.model, engine, RankingModel, request.checkpoint, aside.path)
        with torch.no_grad():
            expected = model(jagged(query, item, rows.num_rows), dense(query, item), numbers(query, item))
        weights = scripted.table_weights(model.tables)
        inputs = ranker_inputs(query, item)
        sequences = [*query.numbers, *item.numbers]
        ranker = Ranker(model, weights, sequences, config.table_dtype)
        difference = scripted.save(
            ranker,
            aside.path,
            inputs,
            expected if is_trained else scripted.eager(ranker, inputs),
            config.parity_tolerance,
            called="ranker",
            signature=_signature(engine, model, request.predicts, rows, inputs, expected),
            form=config.format,
        )
        cost = None if is_trained else _cost(request, engine, Ranker(model, weights, sequences), aside.path)
        shutil.copytree(folder, aside.path / "features")
        sink(Event(stage="export", done=rows.num_rows, total=rows.num_rows))
        return aside.commit(
            ExportedRanker,
            request,
            num_rows=rows.num_rows,
            parity_max_abs_difference=difference,
            tasks=model.tasks,
            predicts=request.predicts,
            format=config.format,
            table_dtype=config.table_dtype,
            cost=cost,
        )


def _rows(request: Request) -> pa.Table:
    """Return the rows that are compared on: of those that are measured, or of the training."""
    count, data = request.config.parity_rows, request.data
    if data is not None:
        return readers.read_all(opened(data, _measured(data)), num_rows=count)
    query, item = (kept_rows(request.checkpoint, side, count) for side in _SIDES)
    for name in item.column_names:
        if name not in query.column_names:
            query = query.append_column(name, item.column(name))
    return query


def _measured(data: LabelledData) -> str:
    return "test" if data.has("test") else "train"


def _signature(
    engine: Engine,
    model: RankingModel,
    predicts: Sequence[Predicts],
    rows: pa.Table,
    inputs: Mapping[str, Tensor],
    expected: Tensor,
) -> dict[str, object]:
    shape = ["rows", *expected.shape[1:]]
    formulas = {"probability": "sigmoid(score)", "value": "score", "amount": "exp(score)"}
    found = {"probability" if one == "probability" else "value": formulas[one] for one in predicts or ("probability",)}
    if len({*predicts}) > 1:
        found = {"predictions": [formulas[one] for one in predicts]}
    output = {"name": "score", "dtype": "float32", "shape": shape, **found}
    return {
        **columns(engine, _SIDES, [rows]),
        "inputs": described(inputs),
        "output": output | ({"tasks": model.tasks} if model.tasks else {}),
    }


def _cost(request: Request, engine: Engine, trained: Ranker, exported: Path) -> Cost:
    """Measure the model with its tables as they were trained, and as they are exported, on the first task's rows."""
    config, data = request.ranking, request.data
    assert config is not None, "checked at the start"
    assert data is not None, "likewise"
    reader = opened(data, _measured(data))
    alone = World(0, 1, 1, torch.device("cpu"))
    is_value = next(iter(config.named.values())).predicts != "probability"
    found: list[float | None] = []
    for module in (trained.eval(), modules.load(exported)):
        batches = scored(RankerAsModel(module, engine), engine, config, reader, alone, batch_size=_BATCH_ROWS)
        rows = joined([part for part, _ in batches])
        metrics = next(iter(rows.values())).metrics()
        found.append(metrics.others["mean_squared_error"] if is_value else metrics.auc)
    before, after = found
    if before is None or after is None:
        raise ValueError(f"{data.root}: the rows of {_measured(data)} have one label only, so they measure nothing")
    return Cost(
        metric="mean_squared_error" if is_value else "auc", num_rows=reader.num_rows, trained=before, exported=after
    )
