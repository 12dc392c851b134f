"""Profiling a table against merely scanning it with pyarrow, in one run, and what the memory does as the table grows.

    python benchmarks/profiling.py [--rows N] [--seed N] [--json FILE]

The table has ten columns: ids, times, prices, rates, a label, two texts. Both read every column of the same file with
the same number of threads; the reference throws the rows away. Each runs in a process of its own, whose peak memory is
printed beside the time, for the table and for one of a quarter of its rows: bounded memory is a ratio near 1.
"""

import argparse
import json
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from recsys_core import profile
from recsys_core.progress import silent

_ROWS_PER_GROUP = 1 << 17


def write(path: Path, num_rows: int, seed: int) -> None:
    """Write interactions as a day has them, a row group at a time."""
    rng = np.random.default_rng(seed)
    cities = np.array([f"city {i}" for i in range(200)])
    writer: pq.ParquetWriter | None = None
    for start in range(0, num_rows, _ROWS_PER_GROUP):
        size = min(_ROWS_PER_GROUP, num_rows - start)
        table = pa.table(
            {
                "user_id": rng.integers(0, 1 << 24, size),
                "item_id": np.minimum(rng.zipf(1.2, size), 1 << 20),
                "timestamp": rng.integers(1_700_000_000, 1_700_086_400, size),
                "price": rng.lognormal(3, 1, size),
                "score": rng.normal(size=size).astype(np.float32),
                "click_rate": np.round(rng.beta(2, 50, size), 3),
                "label": (rng.random(size) < 0.1).astype(np.int8),
                "age": rng.integers(14, 90, size).astype(np.int32),
                "city": pa.array(cities[rng.integers(0, 200, size)]),
                "device": pa.array(rng.integers(0, 1 << 40, size)).cast(pa.string()),
            }
        )
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    assert writer is not None
    writer.close()


def ours(path: str) -> int:
    """Profile every column; return the rows."""
    return profile.run(path, silent).rows


def scan(path: str) -> int:
    """Read every column and throw it away; return the rows."""
    return sum(batch.num_rows for batch in pads.dataset(path).to_batches())


def measured(work: Callable[[str], int], path: Path) -> tuple[float, int]:
    """Return the seconds that `work` takes in a process of its own, and that process's peak memory in bytes."""
    context = multiprocessing.get_context("spawn")
    ours, there = context.Pipe()
    process = context.Process(target=_work, args=(work, str(path), there))
    process.start()
    seconds, peak_bytes = ours.recv()
    process.join()
    return seconds, peak_bytes


def _work(work: Callable[[str], int], path: str, connection: Connection) -> None:
    pa.set_cpu_count(os.cpu_count() or 1)
    start = time.perf_counter()
    work(path)
    seconds = time.perf_counter() - start
    connection.send((seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        whole, quarter = Path(folder) / "whole.parquet", Path(folder) / "quarter.parquet"
        write(whole, arguments.rows, arguments.seed)
        write(quarter, arguments.rows // 4, arguments.seed)
        scanned, _ = measured(scan, whole)
        profiled, peak_bytes = measured(ours, whole)
        _, small_bytes = measured(ours, quarter)
    rows = [
        _row("profile", "rows per second", arguments.rows / profiled, "1/s", arguments.rows / scanned),
        _row("profile", "peak memory beside a quarter of the rows", peak_bytes, "bytes", small_bytes),
    ]
    print(f"{arguments.rows:,} rows of 10 columns in {profiled:.1f} s\n")
    print(f"{'figure':<42} {'ours':>14} {'reference':>14} {'ratio':>7}")
    for row in rows:
        print(f"{row['figure']:<42} {row['value']:>14,.0f} {row['reference']:>14,.0f} {row['ratio']:>7.2f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


def _row(case: str, figure: str, value: float, unit: str, reference: float) -> dict[str, object]:
    return {
        "case": case,
        "figure": figure,
        "value": value,
        "unit": unit,
        "reference": reference,
        "ratio": value / reference,
    }


if __name__ == "__main__":
    main()
