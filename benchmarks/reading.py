"""Parquet to batches of tensors, against what pyarrow.dataset alone scans of the same files with the same threads.

    python benchmarks/reading.py [--rows N] [--files N] [--batch-size N] [--threads N] [--folder DIR] [--json FILE]
    python benchmarks/reading.py --memory --rows 40000000            # a table of 10 GB, and what stays resident

The wide table has 13 floats and 26 ids a row, the table of lists three ids and two lists of 1 to 50. Every case reads
all rows through a reader, the loader and the feature engine into the tensors that a model takes. Times are the best of
three, taken in turns; the ratio is ours over the scan, in rows per second.
"""

import argparse
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import torch

from recsys_core.features import Config, Encoded, Engine
from recsys_core.loading.batch import jagged
from recsys_core.loading.epoch_order import EpochOrder
from recsys_core.loading.prefetch import prefetch
from recsys_core.loading.rank_batches import RankBatches, Rows
from recsys_core.readers import parquet

_REPEATS = 3
_NUM_IDS = 100_000
_ROWS_PER_GROUP = 16_384
_WRITTEN_ROWS = 1 << 19
WIDE = {
    "embedding_dim": 16,
    "query": [{"kind": "raw", "name": f"float_{i}"} for i in range(13)]
    + [{"kind": "id", "name": f"id_{i}", "encoding": "identity", "num_embeddings": _NUM_IDS} for i in range(26)],
    "item": [],
}
LISTS = {
    "embedding_dim": 16,
    "query": [
        {"kind": "id", "name": name, "encoding": "identity", "num_embeddings": _NUM_IDS}
        for name in ("user", "item", "category", "clicked_items", "clicked_categories")
    ],
    "item": [],
}


def wide(rng: np.random.Generator, num_rows: int) -> pa.Table:
    """Return 13 float32 and 26 int64 columns; ids by a power law."""
    columns = {f"float_{i}": rng.normal(size=num_rows).astype(np.float32) for i in range(13)}
    for i in range(26):
        columns[f"id_{i}"] = np.minimum((rng.pareto(1.05, num_rows) * 20).astype(np.int64), _NUM_IDS - 1)
    return pa.table(columns)


def lists(rng: np.random.Generator, num_rows: int) -> pa.Table:
    """Return three int64 columns and two of lists, 1 to 50 long."""
    offsets = np.concatenate([[0], np.cumsum(rng.integers(1, 51, num_rows))]).astype(np.int32)

    def drawn(count: int) -> pa.Array:
        return pa.array(np.minimum((rng.pareto(1.05, count) * 20).astype(np.int64), _NUM_IDS - 1))

    columns = {name: drawn(num_rows) for name in ("user", "item", "category")}
    for name in ("clicked_items", "clicked_categories"):
        columns[name] = pa.ListArray.from_arrays(pa.array(offsets), drawn(int(offsets[-1])))
    return pa.table(columns)


def write(make: Callable[[np.random.Generator, int], pa.Table], num_rows: int, num_files: int, folder: Path) -> None:
    """Write `num_rows` rows in `num_files` files, a part at a time."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for file in range(num_files):
        left = num_rows * (file + 1) // num_files - num_rows * file // num_files
        with pq.ParquetWriter(folder / f"part-{file:05d}.parquet", make(rng, 0).schema) as writer:
            while left:
                table = make(rng, min(left, _WRITTEN_ROWS))
                writer.write_table(table, row_group_size=_ROWS_PER_GROUP)
                left -= table.num_rows


def scan(folder: Path, columns: list[str]) -> int:
    """Read everything with pyarrow.dataset, and do nothing with it."""
    return sum(batch.num_rows for batch in pads.dataset(folder).to_batches(columns=columns))


def tensors(
    folder: Path, config: dict, shuffle_rows: int, batch_size: int, num_threads: int, epoch: int = 0
) -> Iterator[tuple[torch.Tensor, object]]:
    """Yield each batch as a model takes it: dense [B, F] and one jagged tensor."""
    engine = Engine.build(Config.model_validate(config))
    reader = parquet.Reader(parquet.Config(path=str(folder)))
    # Half of the threads read, half encode.
    num_threads = max(1, num_threads // 2)
    order = EpochOrder(reader.block_rows, seed=0, epoch=epoch, shuffle_rows=shuffle_rows, rows_per_turn=batch_size)
    shard = RankBatches(
        reader, order, engine.columns("query"), batch_size=batch_size, rank=0, num_ranks=1, num_threads=num_threads
    )
    nothing = Encoded(0, np.empty((0, 0), np.float32), {})

    def encoded(rows: Rows) -> tuple[torch.Tensor, object]:
        batch = engine.transform(rows.batch, "query")
        return torch.from_numpy(batch.dense), jagged(batch, nothing, batch.num_rows)

    return prefetch(iter(shard), encoded, num_threads=num_threads)


def consume(batches: Iterator[tuple[torch.Tensor, object]]) -> int:
    """Take every batch; return the rows."""
    return sum(dense.shape[0] for dense, _ in batches)


def measure(case: str, ours: Callable[[], int], reference: Callable[[], int]) -> dict[str, object]:
    """Run both in turns; return a row of the table."""
    best = [0.0, 0.0]
    for _ in range(_REPEATS):
        counts = []
        for number, way in enumerate((ours, reference)):
            start = time.perf_counter()
            counts.append(way())
            best[number] = max(best[number], counts[-1] / (time.perf_counter() - start))
        if counts[0] != counts[1]:
            raise SystemExit(f"{case}: {counts[0]} rows read where the table has {counts[1]}")
    return {
        "case": case,
        "figure": "rows per second",
        "value": best[0],
        "unit": "1/s",
        "reference": best[1],
        "ratio": best[0] / best[1],
    }


def memory(folder: Path, batch_size: int, num_threads: int) -> dict[str, object]:
    """Read a table once, shuffled; return the largest resident size meanwhile, beside the table's own size."""
    process, peak, done = psutil.Process(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.05):
            # Pages of mapped files are the kernel's to take back.
            used = process.memory_info()
            peak[0] = max(peak[0], used.rss - used.shared)

    watcher = threading.Thread(target=watch)
    watcher.start()
    consume(tensors(folder, WIDE, 131_072, batch_size, num_threads))
    done.set()
    watcher.join()
    rows = pads.dataset(folder).count_rows()
    size = rows * (13 * 4 + 26 * 8)
    return {
        "case": f"memory, {rows:,} rows shuffled",
        "figure": "peak resident",
        "value": peak[0] / 1e9,
        "unit": "GB",
        "reference": size / 1e9,
        "ratio": peak[0] / size,
    }


def main() -> None:
    """Measure every case and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=4_000_000, help="of the wide table; the lists have a quarter")
    parser.add_argument("--files", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=8_192)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--memory", action="store_true", help="measure memory instead of speed")
    parser.add_argument("--folder", type=Path, help="where the tables are written, and removed; default: the system's")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    arguments = parser.parse_args()
    pa.set_cpu_count(arguments.threads)
    torch.set_num_threads(1)
    size, threads = arguments.batch_size, arguments.threads
    rows = []
    with tempfile.TemporaryDirectory(dir=arguments.folder) as scratch:
        write(wide, arguments.rows, arguments.files, Path(scratch) / "wide")
        if arguments.memory:
            rows.append(memory(Path(scratch) / "wide", size, threads))
        else:
            write(lists, arguments.rows // 4, arguments.files, Path(scratch) / "lists")
            for name, config in (("wide", WIDE), ("lists", LISTS)):
                folder, columns = Path(scratch) / name, [feature["name"] for feature in config["query"]]
                for order, shuffle_rows in (("in order", 0), ("shuffled", 131_072)):

                    def ours(folder: Path = folder, config: dict = config, shuffle_rows: int = shuffle_rows) -> int:
                        return consume(tensors(folder, config, shuffle_rows, size, threads))

                    def reference(folder: Path = folder, columns: list[str] = columns) -> int:
                        return scan(folder, columns)

                    rows.append(measure(f"{name}, {order}", ours, reference))
    print(f"{arguments.rows:,} rows, {size:,} a batch, {threads} threads\n")
    print(f"{'case':<34} {'figure':<16} {'ours':>14} {'reference':>14}  {'':<4} {'ratio':>6}")
    for row in rows:
        print("{case:<34} {figure:<16} {value:>14,.2f} {reference:>14,.2f}  {unit:<4} {ratio:>6.2f}".format(**row))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
