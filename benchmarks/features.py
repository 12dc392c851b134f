"""The feature engine against the same logic in polars, on one core, and against itself on two.

    python benchmarks/features.py [--rows N] [--threads N] [--seed N] [--json FILE]

`criteo`: 13 floats (log1p) and 26 texts (hashed into 2^20 rows), all at once and in batches of 512.
`criteo_encoded`: the same columns as an upstream job leaves them, floats and rows of tables, in batches of 8,192.
`taobao`: 3 sequences of 50 ids, hashed. polars has a hash of its own, so its numbers differ; what is compared is the
work. Times are the best of five.
"""

import argparse
import functools
import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from recsys_core.features import Config, Engine
from recsys_core.features.hashing import hashed

_REPEATS = 5
_BATCH_ROWS, _SMALL_ROWS = 8_192, 512
_NUM_BUCKETS = 1 << 20


def engine(query: list[dict[str, Any]], num_threads: int) -> Engine:
    """Return an engine of query features."""
    made = Engine.build(Config.model_validate({"embedding_dim": 8, "query": query, "item": []}))
    made.num_threads = num_threads
    return made


def seconds(work: Callable[[], object]) -> float:
    """Return the best time of several runs, the first of which does not count."""
    work()
    best = float("inf")
    for _ in range(_REPEATS):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best


def criteo(num_rows: int, rng: np.random.Generator) -> tuple[pa.Table, list[dict[str, Any]]]:
    """Rows as raw as they come."""
    table = {f"I{i}": pa.array(rng.integers(0, 1000, num_rows).astype(np.float32)) for i in range(13)}
    for i in range(26):
        drawn = (10 ** rng.uniform(0, 6, num_rows)).astype(np.int64) * 2_654_435_761 % (1 << 32)
        table[f"C{i}"] = pa.array([f"{number:08x}" for number in drawn.tolist()])
    numbers = [{"kind": "raw", "name": f"I{i}", "normalizer": "log1p"} for i in range(13)]
    ids = [{"kind": "id", "name": f"C{i}", "encoding": "hash", "num_embeddings": _NUM_BUCKETS} for i in range(26)]
    return pa.table(table), [*numbers, *ids]


def criteo_encoded(num_rows: int, rng: np.random.Generator) -> tuple[pa.Table, list[dict[str, Any]]]:
    """Rows that an upstream job has encoded."""
    table = {f"I{i}": pa.array(rng.random(num_rows).astype(np.float32)) for i in range(13)}
    table |= {f"C{i}": pa.array(rng.integers(0, _NUM_BUCKETS, num_rows)) for i in range(26)}
    numbers = [{"kind": "raw", "name": f"I{i}"} for i in range(13)]
    keys = {"kind": "id", "encoding": "hash", "num_embeddings": _NUM_BUCKETS, "input": "encoded"}
    return pa.table(table), [*numbers, *(keys | {"name": f"C{i}"} for i in range(26))]


def taobao(num_rows: int, rng: np.random.Generator) -> tuple[pa.Table, list[dict[str, Any]]]:
    """Three sequences of 50 ids per row."""
    offsets = pa.array(np.arange(num_rows + 1, dtype=np.int32) * 50)
    drawn = {f"S{i}": pa.array((10 ** rng.uniform(0, 5, num_rows * 50)).astype(np.int64)) for i in range(3)}
    keys = {"kind": "id", "encoding": "hash", "num_embeddings": _NUM_BUCKETS}
    lists = {name: pa.ListArray.from_arrays(offsets, values) for name, values in drawn.items()}
    return pa.table(lists), [keys | {"name": name} for name in lists]


def in_polars(table: pa.Table) -> Callable[[], object]:
    """Return the work of `criteo` or `taobao` as polars does it: log1p of floats, hash modulo buckets of the rest."""
    import polars as pl

    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    expressions = []
    for name, kind in frame.schema.items():
        column = pl.col(name)
        if kind == pl.Float32:
            expressions.append(column.log1p())
        elif isinstance(kind, pl.List):
            expressions.append(column.list.eval(pl.element().cast(pl.String).hash() % _NUM_BUCKETS))
        else:
            expressions.append(column.hash() % _NUM_BUCKETS)
    return lambda: frame.select(expressions)


def _hashed_at_once(columns: list[pa.Array]) -> None:
    """Hash each column on a thread of its own, as an engine does."""
    with ThreadPoolExecutor(len(columns)) as pool:
        list(pool.map(functools.partial(hashed, name="farm"), columns))


def _transformed(made: Engine, batches: list[pa.RecordBatch]) -> None:
    for batch in batches:
        made.transform(batch, "query")


def rows_of(arguments: argparse.Namespace) -> list[dict[str, object]]:
    """Measure everything."""
    rng = np.random.default_rng(arguments.seed)
    found: list[dict[str, object]] = []

    def add(case: str, num: int, ours: Callable[[], object], reference: Callable[[], object] | None, unit: str) -> None:
        rate = num / seconds(ours)
        other = None if reference is None else num / seconds(reference)
        row = {"case": case, "figure": f"{unit} per second", "value": rate, "unit": "1/s", "reference": other}
        found.append(row | {"ratio": None if other is None else rate / other})

    for make, num_rows in ((criteo, arguments.rows), (taobao, arguments.rows // 4)):
        table, query = make(num_rows, rng)
        for threads in sorted({1, arguments.threads}):
            made = engine(query, threads)
            # Polars reads its number of threads when it starts.
            reference = in_polars(table) if threads == 1 else None
            work = functools.partial(made.transform, table, "query")
            add(f"{make.__name__}, {threads} thread(s)", num_rows, work, reference, "rows")
        small, made = table.to_batches(max_chunksize=_SMALL_ROWS)[: _BATCH_ROWS // _SMALL_ROWS], engine(query, 1)
        each: Callable[[], object] = functools.partial(_transformed, made, small)
        add(f"{make.__name__}, batches of {_SMALL_ROWS}", sum(b.num_rows for b in small), each, None, "rows")
    table, query = criteo_encoded(arguments.rows // _BATCH_ROWS * _BATCH_ROWS, rng)
    batches, made = table.to_batches(max_chunksize=_BATCH_ROWS), engine(query, 1)
    encoded: Callable[[], object] = functools.partial(_transformed, made, batches)
    copy: Callable[[], object] = lambda: [[c.to_numpy().copy() for c in batch.columns] for batch in batches]  # noqa: E731
    add("criteo_encoded against copying", table.num_rows, encoded, copy, "rows")
    for share in (0.05, 1.0):
        drawn = rng.integers(0, int(share * arguments.rows), arguments.rows) if share < 1 else np.arange(arguments.rows)
        values = pa.array([f"item_{number}" for number in drawn.tolist()])
        for threads in sorted({1, arguments.threads}):
            work = functools.partial(_hashed_at_once, [values] * threads)
            add(f"farm, {share:.0%} distinct, {threads} thread(s)", len(values) * threads, work, None, "texts")
    return found


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    arguments = parser.parse_args()
    os.environ.setdefault("POLARS_MAX_THREADS", "1")
    pa.set_cpu_count(1)
    rows = rows_of(arguments)
    print(f"{'case':<32} {'per second':>14} {'reference':>14} {'ratio':>7}")
    for row in rows:
        other, ratio = (f"{row[key]:,.1f}" if row[key] is not None else "-" for key in ("reference", "ratio"))
        print(f"{row['case']:<32} {row['value']:>14,.0f} {other:>14} {ratio:>7}")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
