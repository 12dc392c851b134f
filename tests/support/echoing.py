"""Models that give back what they are given, and rows of every kind to give them."""

import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

from recsys_core import artifacts
from recsys_core.artifacts import ExportedModel, Index, TrainingData
from recsys_core.features import Engine, Side

COMMON = {"config_hash": "c" * 32, "code_version": "tests"}
DAY = datetime.date(2024, 3, 1)
NUM_ROWS, MOST = 23, 6  # rows, and the most ids that a row has of one feature

HASHED = {"kind": "id", "encoding": "hash", "num_embeddings": 1_000}
QUERY: list[dict[str, Any]] = [
    HASHED | {"name": "city"},
    HASHED | {"name": "city_farm", "column": "city", "hash": "farm"},
    {"kind": "id", "name": "user_id", "num_embeddings": 64, "num_oov": 3},
    {"kind": "id", "name": "tags", "num_embeddings": 16, "default": "none"},
    {"kind": "id", "name": "shops", "encoding": "multi_hash", "num_buckets": [7, 11]},
    {"kind": "id", "name": "sessions", "num_embeddings": 32},
    {"kind": "id", "name": "is_member", "num_embeddings": 4},
    {
        "kind": "id",
        "name": "cell",
        "encoding": "hash",
        "num_embeddings": 20,
        "input": "encoded",
        "out_of_range": "drop",
    },
    {"kind": "sequence", "name": "cells", "table": "cell", "input": "encoded", "out_of_range": "drop"},
    {"kind": "id", "name": "never", "num_embeddings": 4},
    {"kind": "raw", "name": "share"},
    {"kind": "raw", "name": "share_log", "column": "share", "normalizer": "log1p"},
    {"kind": "raw", "name": "share_bucket", "column": "share", "boundaries": [0.1, 0.7]},
    {"kind": "raw", "name": "age", "normalizer": "zscore"},
    {"kind": "raw", "name": "tastes", "dim": 2},
    {"kind": "raw", "name": "waits", "pooling": "none", "normalizer": "zscore", "fill": -3, "max_length": 4},
    {"kind": "raw", "name": "spots", "pooling": "none", "dim": 2, "normalizer": "expression", "expression": "log1p(x)"},
    {"kind": "sequence", "name": "clicked", "column": "history__item_id", "table": "item_id", "max_length": 4},
    {"kind": "combo", "name": "city_share", "columns": ["city", "share"], "output": HASHED},
    {
        "kind": "expr",
        "name": "rate",
        "expression": "log1p(age) * share + dot(tastes, tastes)",
        "output": {"kind": "raw", "normalizer": "minmax"},
    },
    {"kind": "lookup", "name": "price", "map": "prices", "key": "city", "combiner": "sum", "output": {"kind": "raw"}},
    {"kind": "date_parts", "name": "hour", "column": "seen_at", "part": "hour", "output": HASHED},
    {"kind": "date_parts", "name": "month", "column": "born", "part": "month", "output": {"kind": "raw"}},
    {"kind": "text_normalize", "name": "title", "output": HASHED},
]
ITEM: list[dict[str, Any]] = [
    {"kind": "id", "name": "item_id", "num_embeddings": 40},
    {"kind": "raw", "name": "item_price", "normalizer": "log1p"},
]
# Of rows 0 to 22 three cells are above 19; of the odd rows' lists each has a -1, and 21 is one above.
OUT_OF_RANGE = {"out_of_range/cell": 3.0, "out_of_range/cells": 12.0}
# Beyond 2**53, where float64 knows no odd numbers.
LARGE = (1 << 60) + 1


def users() -> pa.Table:
    rng = np.random.default_rng(3)
    rows = range(NUM_ROWS)

    def lists(make: Any, kind: pa.DataType, most: int = 4) -> pa.Array:
        made = [[make(int(n)) for n in rng.integers(0, 9, rng.integers(0, most))] for _ in rows]
        return pa.array([None if row % 7 == 3 else one for row, one in enumerate(made)], pa.list_(kind))

    shares = [None if row % 5 == 4 else float(np.float32(rng.choice([0.1, 0.7, 0.3, 1e-7, 123.456]))) for row in rows]
    seen = [None if row % 6 == 5 else datetime.datetime.fromisoformat(f"2024-02-03T{row:02}:59:59.999") for row in rows]
    return pa.table(
        {
            "city": pa.array([None if row % 9 == 8 else ["Köln", "北京", "", "x" * 300][row % 4] for row in rows]),
            "user_id": pa.array([LARGE + row // 2 for row in rows]),
            "tags": lists(lambda n: f"t{n}", pa.string()),
            "shops": lists(lambda n: -n, pa.int32(), 3),
            "sessions": pa.array([None if row % 4 == 3 else [[row % 3, 5], [], [7]] for row in rows]),
            "is_member": pa.array([[True, None, False][row % 3] for row in rows]),
            "cell": pa.array([row % 50 for row in rows], pa.int16()),
            "cells": pa.array([[row, 19, -1] if row % 2 else None for row in rows]),
            "never": pa.nulls(NUM_ROWS),
            "share": pa.array(shares, pa.float32()),
            "age": pa.array([None if row % 3 == 2 else 20 + row for row in rows], pa.int8()),
            "tastes": pa.array([[0.1 * row, 0.2] for row in rows], pa.list_(pa.float32(), 2)),
            "waits": pa.array(
                [None if row % 6 == 1 else [[0.1 * row, None, 7.0], [], [row]][row % 3] for row in rows],
                pa.list_(pa.float32()),
            ),
            "spots": pa.array([[[row, 0.1], None, [None, 0.7]][: row % 4] for row in rows]),
            "history__item_id": lists(lambda n: 100 + n, pa.int64(), 6),
            "prices": pa.array(
                [None if row % 8 == 7 else [("Köln", 0.1 * row), ("北京", 2.5)] for row in rows],
                pa.map_(pa.string(), pa.float64()),
            ),
            "seen_at": pa.array(seen, pa.timestamp("ms")),
            "born": pa.array([datetime.date(1999, 1 + row % 12, 28) for row in rows]),
            "title": pa.array([None if row % 10 == 9 else f"ÀB c{row % 3}" for row in rows]).dictionary_encode(),
        }
    )


def items() -> pa.Table:
    return pa.table(
        {
            "item_id": np.arange(100, 110),
            "item_price": pa.array(np.arange(10) / 3, pa.float32()),
            "sampling_weight": np.ones(10),
            "num_interactions": np.arange(10),
        }
    )


class Echo(nn.Module):
    """Inputs of `towers.tower_inputs` to [rows, width]: dense fields, ids and numbers (-1: no more), zeros."""

    names: list[str]

    def __init__(self, names: list[str], width: int) -> None:
        super().__init__()
        self.names, self.most, self.width = names, MOST, width

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        parts = [inputs["dense"]]
        for name in self.names:
            lengths, values = inputs[name + ".lengths"], inputs[name + ".values"]
            rows = torch.repeat_interleave(torch.arange(lengths.numel()), lengths)
            first = torch.repeat_interleave(torch.cumsum(lengths, 0) - lengths, lengths)
            dim = values.shape[1] if values.dim() == 2 else 1
            cells = torch.full([lengths.numel(), self.most, dim], -1.0)
            cells[rows, torch.arange(rows.numel()) - first] = values.to(torch.float32).view(-1, dim)
            parts.append(cells.flatten(1))
        written = torch.cat(parts, dim=1)
        return torch.nn.functional.pad(written, [0, self.width - written.shape[1]])


def names_of(engine: Engine, side: Side) -> list[str]:
    """Features that have lists."""
    return [feature.name for feature in (*engine.sparse_features(side), *engine.number_sequences(side))]


def num_columns(engine: Engine, side: Side) -> int:
    """Ids and numbers that a place in a list has."""
    return len(engine.sparse_features(side)) + sum(feature.dim for feature in engine.number_sequences(side))


class EchoOne(nn.Module):
    """As `Echo`, one of its columns: what a ranker may answer."""

    def __init__(self, echo: Echo, column: int) -> None:
        super().__init__()
        self.echo, self.column = echo, column

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return self.echo(inputs)[:, self.column]


class Made(NamedTuple):
    """One day's artifacts around the engine."""

    data: TrainingData
    model: ExportedModel
    index: Index
    root: Path


class _Inputs(artifacts.Request):
    what: str


def commit(record: Any, output: Path, fill: Any, **fields: Any) -> Any:
    with artifacts.pending(output) as aside:
        fill(aside.path)
        request = _Inputs(output=output, what=record.__name__, **COMMON)
        return aside.commit(record, request, **({"num_rows": NUM_ROWS} | fields))


def write(path: Path, table: pa.Table, rows: int = 8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=rows)
