"""What the training's own code makes of rows: the model out of its checkpoint, whole, before it was exported.

Legend: B rows, T tasks.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import torch

from recsys_core import lookup
from recsys_core.artifacts import ComponentConfig
from recsys_core.artifacts.ranking import Predicts
from recsys_core.exported.predictions import predictions
from recsys_core.features import Engine
from recsys_core.features.columns import types
from recsys_core.loading.batch import dense, jagged, numbers
from recsys_core.models.base import RankingModel, RetrievalModel
from recsys_core.registry.named import Trained
from recsys_core.training import restored

_MODELS = "recsys_core.models"
# As `exported.inputs.filled`: products of fewer rows round otherwise.
_LEAST_ROWS = 16


def vectors(trained: Trained, rows: pa.Table) -> np.ndarray:
    """float32 [B, D]: the query tower's vectors of raw rows.

    Raises:
        ValueError: the weights are not of this model; names what is missing.
    """
    engine, num_rows = Engine.load(trained.features), rows.num_rows
    model = restored.whole(_section(trained), engine, RetrievalModel, trained.checkpoint)
    query = engine.transform(_filled(rows), "query")
    schema = engine.schema("item")
    none = pa.table({name: pa.array([], types.parse(field["type"])) for name, field in schema.items()})
    known = none.column_names
    for name in engine.columns("item"):
        none = none if name in known else none.append_column(name, pa.nulls(0))
    item = engine.transform(none, "item")
    with torch.no_grad():
        found, _ = model(
            jagged(query, item, query.num_rows), torch.from_numpy(query.dense), torch.from_numpy(item.dense)
        )
    return found[:num_rows].numpy()


def scores(
    trained: Trained, columns: Sequence[tuple[str, str]], predicted: Sequence[Predicts], rows: pa.Table
) -> dict[str, np.ndarray]:
    """float32 [B] by name: each task's output of raw rows, and what it predicts; `columns` are their names.

    Raises:
        ValueError: see `vectors`.
    """
    engine, num_rows = Engine.load(trained.features), rows.num_rows
    model = restored.whole(_section(trained), engine, RankingModel, trained.checkpoint)
    filled = _filled(rows)
    query, item = engine.transform(filled, "query"), engine.transform(filled, "item")
    with torch.no_grad():
        logits = model(jagged(query, item, filled.num_rows), dense(query, item), numbers(query, item))[:num_rows]
        logits_TB = logits.reshape(num_rows, len(columns)).T.contiguous()
    found: dict[str, np.ndarray] = {}
    for (score, prediction), predicts, output_B in zip(columns, predicted, logits_TB, strict=True):
        found |= {prediction: predictions(output_B, predicts), score: output_B.numpy()}
    return found


def _section(trained: Trained) -> ComponentConfig:
    kind = trained.model["kind"]
    return lookup.component(_MODELS, kind).Config.model_validate(trained.model)


def _filled(rows: pa.Table) -> pa.Table:
    """Return at least 16 rows, by asking for the same ones again."""
    return rows.take(pa.array(np.arange(max(_LEAST_ROWS, rows.num_rows)) % rows.num_rows))
