"""Peak memory of ranks whose tables would be large: what was measured beside what the plan printed.

    python benchmarks/memory.py [--virtual-gb N] [--ids N] [--static-gb N] [--cases NAME …] [--json FILE]

`dynamic`: a table of dynamic ids that may grow to `--virtual-gb` (weights and optimizer), row-wise on two ranks, in
which `--ids` ids have rows; it is trained on all of them. `row_wise`: a table of fixed size, `--static-gb`, row-wise on
two ranks, all of it drawn and a part of it trained. The plan's bound of a rank is what its tables and batches take,
what the process had before, and the reserve; `full` is what its tables may come to take. A ratio below 1 stays under.

What `row_wise` has trained is exported then, by a process that is allowed half as much memory without files as the
table takes, over what it had reserved before. `index` builds an index on disk, as `dayline index --memory-gb` does, and
measures a hit rate over it, as `dayline hit-rate` does, in a process each.
"""

import argparse
import contextlib
import datetime
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

NUM_RANKS, DIM, IDS_PER_ROW = 2, 16, 20
BYTES_PER_ROW = 4 * DIM + 4  # weights, and row-wise adagrad's number
CASES = ("dynamic", "row_wise", "index")
INDEX_DIM = 64
_LOOK_SECONDS = 0.01
_COMMON = {"config_hash": "benchmark", "code_version": "benchmark"}


def _rows(num_ids: int, seed: int) -> pa.Table:
    """Return labelled rows with a list of ids each; all ids are distinct, 64 bits wide."""
    rng = np.random.default_rng(seed)
    num_rows = num_ids // IDS_PER_ROW
    ids = rng.integers(-(2**63), 2**63 - 1, num_rows * IDS_PER_ROW)
    lists = pa.ListArray.from_arrays(pa.array(np.arange(num_rows + 1, dtype=np.int32) * IDS_PER_ROW), pa.array(ids))
    return pa.table(
        {
            "label": pa.array(rng.integers(0, 2, num_rows)),
            "user": lists,
            "hour": pa.array(rng.integers(0, 24, num_rows)),
        }
    )


def _request(case: str, work: Path, arguments: argparse.Namespace) -> Any:
    from recsys_core import features
    from recsys_core.datasets.labelled import splits
    from recsys_core.losses import binary_cross_entropy
    from recsys_core.models import dlrm
    from recsys_core.progress import silent
    from recsys_core.ranking import Config, prepare
    from recsys_core.ranking import train as rank_train
    from recsys_core.training import config

    day = datetime.date(2024, 1, 1)
    (work / "log" / "train").mkdir(parents=True)
    pq.write_table(_rows(arguments.ids, seed=0), work / "log" / "train" / "0.parquet", row_group_size=16_384)
    if case == "dynamic":
        user = {"dynamic": {"max_rows": round(arguments.virtual_gb * 1e9 / BYTES_PER_ROW)}}
    else:
        user = {"encoding": "hash", "num_embeddings": round(arguments.static_gb * 1e9 / BYTES_PER_ROW)}
    query = [
        {"kind": "id", "name": "user", **user},
        {"kind": "id", "name": "hour", "encoding": "identity", "num_embeddings": 24},
    ]
    labelled = Config(label="label")
    data = prepare.run(
        prepare.Request(
            output=work / "prepare",
            config=labelled,
            data=splits.Config(source=str(work / "log"), day=day),
            features=features.Config.model_validate({"embedding_dim": DIM, "query": query, "item": []}),
            import_root=work,
            fingerprint="benchmark",
            **_COMMON,
        ),
        silent,
    )
    taste = {
        "batch_size": 4_096,
        "num_epochs": 1,
        "shuffle_rows": 32_768,
        "checkpoint_every_steps": 1_000_000,
        "sharding": {"device": "cpu", "by_table": {"user": ["row_wise"]}},
    }
    return rank_train.Request(
        output=work / "train",
        config=config.Config.model_validate(taste),
        ranking=labelled,
        model=dlrm.Config(),
        loss=binary_cross_entropy.Config(),
        num_ranks=NUM_RANKS,
        seed=0,
        day=day,
        data=data,
        **_COMMON,
    )


def work_as_rank(request: Path) -> None:
    """Train as one of the ranks, and leave the peak of this process beside the request."""
    from recsys_core.progress import silent
    from recsys_core.ranking import train as rank_train

    rank_train.run(rank_train.Request.model_validate_json(request.read_text()), silent)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1_024
    request.with_name(f"peak-{os.environ['RANK']}").write_text(str(peak))


def work_as_exporter(training: Path) -> None:
    """Export what was trained, and leave beside it the peak of this process's memory that is of no file."""
    from recsys_core.artifacts import Checkpoint
    from recsys_core.progress import silent
    from recsys_core.ranking import export
    from recsys_core.ranking import train as rank_train

    trained = rank_train.Request.model_validate_json(training.read_text())
    request = export.Request(
        output=training.with_name("export"),
        config=export.Config(parity_rows=100),
        checkpoint=Checkpoint.load(trained.output),
        model=trained.model,
        ranking=trained.ranking,
        data=trained.data,
        **_COMMON,
    )
    before = _of_status("RssAnon")
    table_bytes = sum(part.stat().st_size for part in trained.output.rglob("*.distcp"))
    resource.setrlimit(resource.RLIMIT_DATA, (_of_status("VmData") + table_bytes // 2,) * 2)
    with _watched() as peak:
        export.run(request, silent)
    training.with_name("exported").write_text(json.dumps({"before": before, "peak": peak[0]}))


def work_as_indexer(work: Path, index_gb: float) -> None:
    """Build an index of the items, or where there is one measure a hit rate over it; leave the peak as above."""
    from recsys_core.indexes import ivf_flat
    from recsys_core.progress import silent
    from recsys_core.retrieval import index
    from recsys_core.retrieval.hit_rate import of_tables
    from recsys_core.retrieval.own_tables import ItemTable, RequestTable

    items, memory = ItemTable(path=str(work / "items.parquet")), int(index_gb * 1e9)
    config = ivf_flat.Config(nlist=1_000, nprobe=8)
    with _watched() as peak:
        if (work / "index").is_dir():
            requests = RequestTable(path=str(work / "requests.parquet"))
            asked = of_tables.Request(items=items, requests=requests, ks=(20, 50), folder=work / "index")
            of_tables.run(asked, silent)
        else:
            index.run_table(
                index.TableRequest.of(items, config, work / "index", metric="ip", seed=0, memory_bytes=memory), silent
            )
    (work / "peak").write_text(str(peak[0]))


@contextlib.contextmanager
def _watched() -> Iterator[list[int]]:
    """Yield the peak of this process's memory that is of no file, once the block has ended."""
    ended, peak = threading.Event(), [0]

    def watch() -> None:
        while not ended.wait(_LOOK_SECONDS):
            peak[0] = max(peak[0], _of_status("RssAnon"))

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield peak
    finally:
        ended.set()
        watching.join()


def _indexed(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    rng, rows = np.random.default_rng(0), list[dict[str, Any]]()
    table_bytes = arguments.index_items * INDEX_DIM * 4
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        work = Path(folder)
        _vectors(work / "items.parquet", "item_id", arguments.index_items, rng)
        _vectors(work / "requests.parquet", "request_id", 1_000, rng)
        for case, bound in (("index", arguments.index_gb * 1e9), ("hit rate over it", table_bytes)):
            command = [sys.executable, "-W", "ignore", __file__, "--indexer", folder]
            subprocess.run([*command, "--index-gb", str(arguments.index_gb)], check=True)
            peak = int((work / "peak").read_text())
            for name, reference in (("of the bound", bound), ("of the vectors", table_bytes)):
                row = {"case": case, "figure": f"peak without files {name}", "value": peak, "unit": "bytes"}
                rows.append(row | {"reference": reference, "ratio": peak / reference})
    return rows[:-1]


def _vectors(file: Path, name: str, num_rows: int, rng: np.random.Generator) -> None:
    kind = pa.list_(pa.float32(), INDEX_DIM)
    schema = pa.schema([(name, pa.int64()), ("embedding", kind), ("gt_items", pa.list_(pa.int64()))])
    with pq.ParquetWriter(file, schema, compression="none") as writer:
        for start in range(0, num_rows, 65_536):
            ids = np.arange(start, min(start + 65_536, num_rows))
            vectors = pa.array(rng.normal(size=len(ids) * INDEX_DIM).astype(np.float32))
            columns = [
                pa.array(ids),
                pa.FixedSizeListArray.from_arrays(vectors, INDEX_DIM),
                pa.array([[one] for one in ids]),
            ]
            writer.write_table(pa.table(columns, schema=schema))


def _of_status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1_024 for line in lines if line.startswith(f"{name}:"))


def _exported(request: Path, arguments: argparse.Namespace, environment: dict[str, str]) -> list[dict[str, Any]]:
    command = [sys.executable, "-W", "ignore", __file__, "--exporter", str(request)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"export failed:\n{done.stderr}")
    found, table = json.loads(request.with_name("exported").read_text()), arguments.static_gb * 1e9
    size = (request.with_name("export") / "model.pt").stat().st_size
    values = {
        "peak without files": found["peak"],
        "the same, over before": found["peak"] - found["before"],
        "file": size,
    }
    rows: list[dict[str, Any]] = []
    for figure, value in values.items():
        row = {"case": "row_wise, export", "figure": f"{figure} of the table", "value": value, "unit": "bytes"}
        rows.append(row | {"reference": table, "ratio": value / table})
    return rows


def measure(case: str, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Train a case, print its plan, and return its rows."""
    if case == "index":
        return _indexed(arguments)
    from recsys_core.sharding.plans import Plan

    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        work = Path(folder)
        request = work / "request.json"
        request.write_text(_request(case, work, arguments).model_dump_json())
        command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone"]
        command += [f"--nproc-per-node={NUM_RANKS}", __file__, "--worker", str(request)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{case} failed:\n{done.stderr}")
        print((work / "train" / "plan.txt").read_text(), flush=True)
        plan = Plan.load(work / "train")
        rows = []
        for rank in range(NUM_RANKS):
            peak = int((work / f"peak-{rank}").read_text())
            bounds = {"of the plan's bound": plan.peak_bytes(rank)}
            if case == "dynamic":
                bounds["of full tables"] = plan.most_bytes(rank)
            for name, bound in bounds.items():
                figure = {"case": f"{case}, rank {rank}", "figure": f"peak resident {name}", "value": peak}
                rows.append(figure | {"unit": "bytes", "reference": bound, "ratio": peak / bound})
        return rows + (_exported(request, arguments, environment) if case == "row_wise" else [])


def main() -> None:
    """Measure every case and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--virtual-gb", type=float, default=20.0, help="what the dynamic table may come to take")
    parser.add_argument("--ids", type=int, default=6_000_000, help="ids in the data, all of them distinct")
    parser.add_argument("--static-gb", type=float, default=4.0, help="what the table of fixed size takes")
    parser.add_argument("--index-items", type=int, default=4_000_000, help=f"of {INDEX_DIM} numbers each")
    parser.add_argument("--index-gb", type=float, default=0.8, help="memory that the index is built with")
    parser.add_argument("--folder", type=Path, help="for data and checkpoints; by default the temporary one")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--exporter", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--indexer", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work_as_rank(arguments.worker)
        return
    if arguments.exporter:
        work_as_exporter(arguments.exporter)
        return
    if arguments.indexer:
        work_as_indexer(arguments.indexer, arguments.index_gb)
        return
    rows = [row for case in arguments.cases for row in measure(case, arguments)]
    print(f"{'case':<18} {'figure':<36} {'GB':>8} {'reference':>10} {'ratio':>6}")
    for row in rows:
        gigabytes = [row[key] / 1e9 for key in ("value", "reference")]
        print(f"{row['case']:<18} {row['figure']:<36} {gigabytes[0]:>8.2f} {gigabytes[1]:>10.2f} {row['ratio']:>6.2f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
