"""How many of a day's ground-truth items two towers find, by exact search; for figures that need no index."""

from collections.abc import Callable, Mapping

import pyarrow as pa
import torch
from torch import Tensor

from recsys_core import readers
from recsys_core.artifacts import TrainingData
from recsys_core.exported.inputs import tower_inputs
from recsys_core.features import Engine, Side
from recsys_core.retrieval import vectors

_BATCH_ROWS = 8_192
_BLOCK_SCORES = 1 << 25


def hit_rate(
    towers: Mapping[Side, Callable[[dict[str, Tensor]], Tensor]], engine: Engine, data: TrainingData, k: int
) -> tuple[float, int]:
    """Return hits in the top `k` of all items over all ground-truth items, none masked; and the number of queries."""
    items, queries = (readers.read_all(readers.opened(folder)) for folder in (data.items, data.ground_truth))
    item_ID, query_QD = (
        _vectors(towers["item"], engine, items, "item"),
        _vectors(towers["query"], engine, queries, "query"),
    )
    ids = items.column("item_id").combine_chunks()
    truth = vectors.lists(queries.column("gt_items").combine_chunks(), ids, str(data.ground_truth))
    num_rows, num_hits = len(query_QD), 0
    block = max(1, _BLOCK_SCORES // max(1, len(item_ID)))
    for start in range(0, num_rows, block):
        best_BK = (query_QD[start : start + block] @ item_ID.T).topk(k, dim=1).indices.tolist()
        for row, best in enumerate(best_BK, start):
            num_hits += len({*best} & {*truth.values[truth.offsets[row] : truth.offsets[row + 1]].tolist()})
    return num_hits / max(1, len(truth.values)), num_rows


def _vectors(tower: Callable[[dict[str, Tensor]], Tensor], engine: Engine, rows: pa.Table, side: Side) -> Tensor:
    with torch.no_grad():
        return torch.cat([tower(tower_inputs(engine.transform(part, side))) for part in rows.to_batches(_BATCH_ROWS)])
