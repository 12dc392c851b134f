"""Reading MaxCompute tables through our reader against the bare client, over the same emulator, in one run.

    python benchmarks/maxcompute.py [--rows N] [--seed N] [--json FILE]

The bare client reads the whole table as one stream and sees to nothing: no counting, no retries, no blocks. Both read
every column; tables are compared before any time is printed. Times are the best of five, taken in turns; the ratio is
ours over the bare client's, in rows per second. The emulator runs in a process of its own.
"""

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from odps import ODPS
from odps.apis import storage_api as api

from recsys_core.odps.credentials import Keys
from recsys_core.odps.emulator import Emulator
from recsys_core.readers.odps import Config, Reader

_REPEATS = 5
_KEYS = ("benchmark", "benchmark")
_BATCH_ROWS = 16_384


def make(num_rows: int, seed: int) -> pa.Table:
    """Make interactions with a history, as a day's examples have them."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 30, num_rows)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    items = pa.array(rng.integers(0, 1 << 20, offsets[-1]))
    return pa.table(
        {
            "user_id": rng.integers(0, 1 << 24, num_rows),
            "item_id": rng.integers(0, 1 << 20, num_rows),
            "timestamp": rng.integers(1_700_000_000, 1_700_086_400, num_rows),
            "price": rng.gamma(2, 30, num_rows),
            "city": pa.array(np.array([f"city {i}" for i in range(200)])[rng.integers(0, 200, num_rows)]),
            "history": pa.ListArray.from_arrays(pa.array(offsets), items),
        }
    )


def serve(folder: str, connection: Connection) -> None:
    """Run the emulator in this process, and send its address over `connection`."""
    emulator = Emulator(Path(folder), [Keys(*_KEYS)])
    connection.send(emulator.endpoint)
    emulator.serve()


def ours(compression: str) -> pa.Table:
    """Read through the pipeline's reader, block after block."""
    reader = Reader(
        Config.model_validate(
            {"path": "odps://shop/tables/t", "compression": compression, "max_batch_rows": _BATCH_ROWS}
        )
    )
    return pa.concat_tables([reader.read(block, reader.schema.names) for block in range(len(reader.block_rows))])


def bare(compression: str) -> pa.Table:
    """Read as the client's own documentation does."""
    client = ODPS(*_KEYS, project="shop", endpoint=os.environ["ODPS_ENDPOINT"], overwrite_global=False)
    storage = api.StorageApiArrowClient(client, client.get_table("t"))
    split = api.SplitOptions.get_default_options(api.SplitOptions.SplitMode.ROW_OFFSET)
    session = storage.create_read_session(api.TableBatchScanRequest(split_options=split, required_partitions=[]))
    request = api.ReadRowsRequest(
        session_id=session.session_id,
        row_index=0,
        row_count=session.record_count,
        max_batch_rows=_BATCH_ROWS,
        compression=api.Compression.UNCOMPRESSED if compression == "none" else api.Compression[compression],
    )
    reader, batches = storage.read_rows_arrow(request), []
    while (batch := reader.read()) is not None:
        batches.append(batch)
    return pa.Table.from_batches(batches)


def measure(compression: str, num_rows: int) -> dict[str, object]:
    """Read both ways in turns; return a row of the table. Refuses to time tables that differ."""
    best = [float("inf"), float("inf")]
    for _ in range(_REPEATS):
        tables = []
        for number, way in enumerate((ours, bare)):
            start = time.perf_counter()
            tables.append(way(compression))
            best[number] = min(best[number], time.perf_counter() - start)
        if not tables[0].equals(tables[1]):
            raise SystemExit(f"{compression}: the tables differ; their times mean nothing")
    rates = [num_rows / seconds for seconds in best]
    return {
        "case": f"read, {compression}",
        "figure": "rows per second",
        "value": rates[0],
        "unit": "1/s",
        "reference": rates[1],
        "ratio": rates[0] / rates[1],
    }


def main() -> None:
    """Measure every case and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "shop" / "t").mkdir(parents=True)
        table = make(arguments.rows, arguments.seed)
        pq.write_table(table, Path(folder) / "shop" / "t" / "part.parquet", row_group_size=65_536)
        ours, there = multiprocessing.Pipe()
        server = multiprocessing.get_context("spawn").Process(target=serve, args=(folder, there), daemon=True)
        server.start()
        os.environ |= {"ODPS_ENDPOINT": ours.recv(), "ODPS_ACCESS_ID": _KEYS[0], "ODPS_ACCESS_KEY": _KEYS[1]}
        print(f"{arguments.rows} rows of {len(table.column_names)} columns, {table.nbytes / 1e6:.0f} MB\n")
        print(f"{'case':<18} {'ours':>12} {'bare client':>12}  rows/s  {'ratio':>7}")
        rows = []
        for compression in ("none", "LZ4_FRAME"):
            rows.append(row := measure(compression, arguments.rows))
            print(f"{row['case']:<18} {row['value']:>12,.0f} {row['reference']:>12,.0f} {row['ratio']:>15.2f}")
        server.terminate()
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
