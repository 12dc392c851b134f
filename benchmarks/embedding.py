"""A table through an exported tower or ranker, files to files, against the bare module on tensors in memory.

    python benchmarks/embedding.py [--rows N] [--batch-size N] [--threads N] [--folder DIR] [--json FILE]

The query tower has six features of ids, one of them a list of 20, one number, and 512, 256 and 64 units; the ranker is
DLRM with 13 numbers and 26 ids. Ours reads Parquet, encodes, computes, and writes Parquet with the id and what was
computed: what `dayline embed` and `dayline predict` do once their process has started. The reference is the same module
over batches that are encoded already, best of three, taken in turns; by the clock, and by CPU time, which other
programs on the machine change less.
"""

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from recsys_core import artifacts, models
from recsys_core.artifacts import ExportedModel, ExportedRanker
from recsys_core.exported import forward, scripted, tables
from recsys_core.features import Config, Engine
from recsys_core.models.base import RankingModel, RetrievalModel
from recsys_core.models.dlrm import Config as Dlrm
from recsys_core.models.two_tower import Config as TwoTower
from recsys_core.progress import silent
from recsys_core.ranking.export import Ranker
from recsys_core.retrieval.export import ExportedTower

_REPEATS = 3
_NUM_IDS = 100_000
_IDS = [f"id_{n}" for n in range(5)]


class _Request(artifacts.Request):
    what: str


def _id(name: str) -> dict[str, Any]:
    return {"kind": "id", "name": name, "encoding": "identity", "num_embeddings": _NUM_IDS}


TOWER = {
    "embedding_dim": 16,
    "query": [*map(_id, _IDS), _id("clicked"), {"kind": "raw", "name": "number"}],
    "item": [_id("item")],
}
RANKER = {
    "embedding_dim": 16,
    "query": [{"kind": "raw", "name": f"int_{n}"} for n in range(13)] + [_id(f"cat_{n}") for n in range(13)],
    "item": [_id(f"cat_{n}") for n in range(13, 26)],
}


def rows(rng: np.random.Generator, num_rows: int, config: dict[str, Any]) -> pa.Table:
    """Return a table with the columns of both sides, ids by a power law."""

    def ids(count: int) -> np.ndarray:
        return np.minimum((rng.pareto(1.05, count) * 20).astype(np.int64), _NUM_IDS - 1)

    columns: dict[str, Any] = {"row": np.arange(num_rows)}
    for feature in (*config["query"], *config["item"]):
        name = feature["name"]
        columns[name] = rng.random(num_rows, np.float32) if feature["kind"] == "raw" else ids(num_rows)
    if "clicked" in columns:
        offsets = np.arange(0, 20 * num_rows + 1, 20, dtype=np.int32)
        columns["clicked"] = pa.ListArray.from_arrays(pa.array(offsets), pa.array(ids(20 * num_rows)))
    return pa.table(columns)


def _committed(record: Any, folder: Path, engine: Engine, fill: Callable[[Path], None], **fields: Any) -> Any:
    request = _Request(output=folder, config_hash="", code_version="", what=record.__name__)
    with artifacts.pending(folder) as aside:
        fill(aside.path)
        engine.save(aside.path / "features")
        return aside.commit(record, request, num_rows=0, parity_max_abs_difference=0.0, **fields)


def tower(folder: Path, engine: Engine) -> forward.Forward:
    """Export a query tower of random weights."""
    config = TwoTower(output_dim=64, query_hidden=(512, 256), item_hidden=())
    model = models.build(config, engine, RetrievalModel)
    module = ExportedTower(model.query, model.tables.pooled[0].features, scripted.table_weights(model.tables))

    def fill(aside: Path) -> None:
        (aside / "query").mkdir()
        torch.jit.script(module.eval()).save(str(aside / "query" / "model.pt"))

    made = _committed(ExportedModel, folder, engine, fill, embedding_dim=64, similarity="cosine")
    return forward.Tower(made, "query")


def ranker(folder: Path, engine: Engine) -> forward.Forward:
    """Export a DLRM of random weights."""
    model = models.build(Dlrm(bottom_hidden=(512, 256), top_hidden=(512, 256)), engine, RankingModel)
    module = Ranker(model, scripted.table_weights(model.tables))

    def fill(aside: Path) -> None:
        torch.jit.script(module.eval()).save(str(aside / "model.pt"))

    return forward.Scorer(_committed(ExportedRanker, folder, engine, fill))


def measured(case: str, num_rows: int, ways: dict[str, Callable[[], object]]) -> list[dict[str, object]]:
    """Run both ways in turns; return a row for each clock."""
    best = {(way, clock): 0.0 for way in ways for clock in ("1/s", "1/CPU s")}
    for _ in range(_REPEATS):
        for way, run in ways.items():
            start, cpu = time.perf_counter(), time.process_time()
            run()
            spent = {"1/s": time.perf_counter() - start, "1/CPU s": time.process_time() - cpu}
            for clock, seconds in spent.items():
                best[way, clock] = max(best[way, clock], num_rows / seconds)
    return [
        {
            "case": case,
            "figure": "rows per second",
            "value": best["ours", clock],
            "unit": clock,
            "reference": best["reference", clock],
            "ratio": best["ours", clock] / best["reference", clock],
        }
        for clock in ("1/s", "1/CPU s")
    ]


def measure(
    case: str, config: dict[str, Any], export: Callable[..., forward.Forward], scratch: Path, given: argparse.Namespace
) -> list[dict[str, object]]:
    """Measure one model."""
    stage = "embed" if export is tower else "predict"
    table = rows(np.random.default_rng(0), given.rows, config)
    (scratch / "in").mkdir(parents=True)
    pq.write_table(table, scratch / "in" / "part-00000.parquet", row_group_size=65_536)
    engine = Engine.build(Config.model_validate(config))
    engine.fit([table.slice(0, 1_000)], [table.slice(0, 1_000)])
    made = export(scratch / "export", engine)
    batches = [made.inputs(batch) for batch in table.to_batches(given.batch_size)]
    record = ExportedModel if stage == "embed" else ExportedRanker
    request = tables.Request(
        output=scratch / ".out.work" / stage,
        config_hash="",
        code_version="",
        stage=stage,
        model=record.load(scratch / "export"),
        side="query" if stage == "embed" else None,
        source=str(scratch / "in"),
        table=str(scratch / "out"),
        reserved_columns=("row",),
        batch_size=given.batch_size,
    )

    def ours() -> None:
        tables.run(request, silent)
        shutil.rmtree(scratch / ".out.work")

    def reference() -> None:
        for inputs in batches:
            made.added(inputs)

    return measured(case, given.rows, {"ours": ours, "reference": reference})


def main() -> None:
    """Measure both and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--batch-size", type=int, default=8_192)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1), help="of Arrow; torch has one")
    parser.add_argument("--folder", type=Path, help="where the tables are written, and removed; default: the system's")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    given = parser.parse_args()
    pa.set_cpu_count(given.threads)
    # In threads of ours it would be another number than in the main one, which computes the reference.
    torch.set_num_threads(1)
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=given.folder) as scratch:
        found += measure("query tower", TOWER, tower, Path(scratch, "tower"), given)
        found += measure("DLRM", RANKER, ranker, Path(scratch, "ranker"), given)
    print(f"{given.rows:,} rows, {given.batch_size:,} a batch, {given.threads} threads\n")
    print(f"{'case':<14} {'figure':<16} {'ours':>12} {'bare module':>12}  {'':<8} {'ratio':>6}")
    for row in found:
        pair = f"{row['value']:>12,.0f} {row['reference']:>12,.0f}"
        print(f"{row['case']:<14} {row['figure']:<16} {pair}  {row['unit']:<8} {row['ratio']:>6.2f}")
    if given.json:
        given.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
