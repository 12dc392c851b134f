"""The export stage of ranking: one scripted module over plain tensors, with a signature and a parity check.

Its look-ups are plain torch: what is exported needs neither TorchRec nor its kernels.
"""

import shutil
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from recsys_core import artifacts, readers
from recsys_core.artifacts import ExportedRanker
from recsys_core.exported import scripted
from recsys_core.exported.inputs import ranker_inputs
from recsys_core.exported.lookups import Lookup, PooledLookup
from recsys_core.exported.signature import described
from recsys_core.features import Engine
from recsys_core.loading.batch import dense, jagged, numbers
from recsys_core.models.base import RankingModel
from recsys_core.progress import Event, Sink
from recsys_core.ranking import opened
from recsys_core.ranking.requests import Export as Config
from recsys_core.ranking.requests import ExportRequest as Request
from recsys_core.training import restored

__all__ = ["Config", "Request", "run"]


class Ranker(nn.Module):
    """A ranking model over the tensors of `inputs.ranker_inputs`: Dict[str, Tensor] → logits [rows], or [rows, T]."""

    unpooled_names: list[str]
    number_names: list[str]

    def __init__(self, model: RankingModel, weights: Mapping[str, Tensor], numbers: Sequence[str] = ()) -> None:
        """`weights` are the tables' [num_embeddings, dim] by name; features that share one share its memory.

        `numbers` names the sequences of numbers, the query's first.
        """
        super().__init__()
        self.head = model.head
        tables = {name: nn.Embedding.from_pretrained(weight) for name, weight in weights.items()}
        self.pooled = nn.ModuleList(PooledLookup(f, tables[f.table]) for f in model.tables.pooled_features)
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
    """Script the model, save it, load it back and compare with the checkpoint on real rows.

    Raises:
        ValueError: they differ by more than the tolerance; nothing is exported then.
    """
    engine = Engine.load(request.data.engine)
    model = restored.whole(request.model, engine, RankingModel, request.checkpoint)
    split = "test" if request.data.has("test") else "train"
    rows = readers.read_all(opened(request.data, split), num_rows=request.config.parity_rows)
    query, item = engine.transform(rows, "query"), engine.transform(rows, "item")
    with torch.no_grad():
        expected = model(jagged(query, item, rows.num_rows), dense(query, item), numbers(query, item))
    with artifacts.pending(request.output) as aside:
        inputs = ranker_inputs(query, item)
        shape = ["rows", *expected.shape[1:]]
        output = {"name": "score", "dtype": "float32", "shape": shape, "probability": "sigmoid(score)"}
        signature = {
            "columns": list(dict.fromkeys([*engine.columns("query"), *engine.columns("item")])),
            "inputs": described(inputs),
            "output": output | ({"tasks": model.tasks} if model.tasks else {}),
        }
        difference = scripted.save(
            Ranker(model, scripted.table_weights(model.tables), [*query.numbers, *item.numbers]),
            aside.path,
            inputs,
            expected,
            request.config.parity_tolerance,
            called="ranker",
            signature=signature,
        )
        shutil.copytree(request.data.engine, aside.path / "features")
        sink(Event(stage="export", done=rows.num_rows, total=rows.num_rows))
        return aside.commit(
            ExportedRanker, request, num_rows=rows.num_rows, parity_max_abs_difference=difference, tasks=model.tasks
        )
