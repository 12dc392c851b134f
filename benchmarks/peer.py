"""A whole run beside TorchEasyRec's commands: rows of Criteo's shape trained, evaluated, exported and predicted.

    python benchmarks/peer.py [WORK] [--rows N] [--eval-rows N] [--ranks N] [--precision P] [--cold]
                              [--peer-seconds S] [--json FILE]

Generates `train/` and `test/` (13 numbers, 26 ids of 100,000, a label that both decide) below WORK, and runs
`dayline run` on them: DLRM with 26 tables of 100,000 rows of 16, batches of 8,192 per machine, one epoch; evaluation of
`test`, scripted export, and every row of `train` scored and written. A run of few rows comes first, so that databases
are there and files are cached, as on any day but the first. The table says where the seconds of the command go, by
stage and by kind as in `day.py`, what memory all its processes take at most (proportional set size), and what the model
came to.

TorchEasyRec does the same by three commands typed one after another, with that model and those batches in its config:

    torchrun --standalone --nproc-per-node=2 -m tzrec.train_eval --pipeline_config_path dlrm.config
    torchrun --standalone --nproc-per-node=1 -m tzrec.export --pipeline_config_path dlrm.config --export_dir exported
    torchrun --standalone --nproc-per-node=2 -m tzrec.predict --scripted_model_path exported --reserved_columns label
        --predict_input_path 'WORK/rows/train/*.parquet' --predict_output_path scored

Together they took 52 s for 500,000 rows on two cores where `training.py`'s GEMM ran at 215 GFLOP/s. The reference is
that, scaled to this machine's GEMM and to the rows; `--peer-seconds` takes what you measured here instead.
"""

import argparse
import contextlib
import json
import shutil
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from day import Bench
from training import gemm

_PEER_SECONDS, _PEER_ROWS, _PEER_GEMM, _PEER_PEAK_GB = 52.0, 500_000, 215.0, 1.43
_NUM_DENSE, _NUM_IDS, _VOCABULARY = 13, 26, 100_000
_WARM_UP_ROWS, _NUM_FILES = 20_000, 8
_ROWS_PER_STEP = 8_192
_LOOK_SECONDS = 0.25


def write(folder: Path, num_rows: int, seed: int) -> None:
    """Write rows whose numbers and ids both say something about the label."""
    of_numbers = np.random.default_rng(0).normal(0, 0.3, _NUM_DENSE)
    of_ids = np.random.default_rng(1).normal(0, 0.35, (_NUM_IDS, _VOCABULARY))
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for number in range(_NUM_FILES):
        size = num_rows // _NUM_FILES + (number < num_rows % _NUM_FILES)
        dense = rng.normal(size=(_NUM_DENSE, size)).astype(np.float32)
        # Few ids are frequent, many are rare.
        ids = np.minimum((20 * rng.pareto(1.05, (_NUM_IDS, size))).astype(np.int64), _VOCABULARY - 1)
        logits = of_numbers @ dense + np.take_along_axis(of_ids, ids, axis=1).sum(axis=0) - 1.0
        columns: dict[str, Any] = {f"int_{n}": column for n, column in enumerate(dense)}
        columns |= {f"cat_{n}": column for n, column in enumerate(ids)}
        columns["label"] = (rng.random(size) < 1 / (1 + np.exp(-logits))).astype(np.int64)
        pq.write_table(pa.table(columns), folder / f"{number}.parquet", row_group_size=16_384)


def config(work: Path, rows: str, arguments: argparse.Namespace) -> Path:
    """Write the config of a run on the splits in the folder `rows`; return its path."""
    tables = {"encoding": "identity", "num_embeddings": _VOCABULARY}
    sections = {
        "name": "peer",
        "run_root": str(work / "runs"),
        "data": {"kind": "splits", "source": str(work / rows), "day": "2024-01-01"},
        "ranking": {"label": "label"},
        "features": {
            "embedding_dim": 16,
            "query": [{"kind": "raw", "name": f"int_{n}"} for n in range(_NUM_DENSE)]
            + [{"kind": "id", "name": f"cat_{n}", **tables} for n in range(_NUM_IDS)],
            "item": [],
        },
        "model": {"kind": "dlrm", "bottom_hidden": [64], "top_hidden": [64, 32], "concat_pooled": True},
        "train": {
            "batch_size": _ROWS_PER_STEP // arguments.ranks,
            "num_epochs": 1,
            "precision": arguments.precision,
            "sparse_optimizer": {"kind": "adagrad", "learning_rate": 0.01},
            "dense_optimizer": {"kind": "adam", "learning_rate": 0.001},
            "sharding": {"device": "cpu"},
        },
        "evaluate": {"split": "test"},
        "predict": {"source": str(work / rows / "train")},
        "launch": {"num_ranks": arguments.ranks},
    }
    path = work / f"{rows}.yaml"
    path.write_text(yaml.safe_dump(sections, sort_keys=False))
    return path


class Peak(threading.Thread):
    """Looks what memory the processes that this one started take together, each page that they share counted once."""

    def __init__(self) -> None:
        """`num_bytes` is the most that was seen."""
        super().__init__(daemon=True)
        self.num_bytes, self.over = 0, threading.Event()

    def run(self) -> None:
        """Look until `over` is set."""
        while not self.over.wait(_LOOK_SECONDS):
            total = 0
            for process in psutil.Process().children(recursive=True):
                # It may have ended meanwhile.
                with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                    total += process.memory_full_info().pss
            self.num_bytes = max(self.num_bytes, total)


def measure(work: Path, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Run both; return the rows of the second."""
    for rows, num_rows, num_test in (
        ("warm-up", _WARM_UP_ROWS, _WARM_UP_ROWS // 4),
        ("rows", arguments.rows, arguments.eval_rows),
    ):
        if not (work / rows).exists():
            write(work / rows / "train", num_rows, seed=2)
            write(work / rows / "test", num_test, seed=3)
    # What has not changed would not be run again.
    shutil.rmtree(work / "runs", ignore_errors=True)
    bench = Bench(work)
    if not arguments.cold:
        bench.run("run", str(config(work, "warm-up", arguments)))
    peak = Peak()
    peak.start()
    timed = bench.run("run", str(config(work, "rows", arguments)))
    peak.over.set()
    reached = gemm()
    by_rows = arguments.rows / _PEER_ROWS
    reference = arguments.peer_seconds or _PEER_SECONDS * by_rows * _PEER_GEMM / reached
    (day,) = timed.days
    rows = [
        _row("total", timed.total, "s", reference),
        *(_row(f"stage {name}", stage["seconds"], "s", timed.total) for name, stage in day["stages"].items()),
        *(_row(kind, seconds, "s", timed.total) for kind, seconds in timed.seconds.items()),
        _row("CPU", timed.cpu_seconds, "s", timed.total),
        _row("training", day["examples_per_second"], "examples/s", None),
        _row("AUC", day["metrics"]["auc"], "AUC", None),
        _row("peak memory", peak.num_bytes / 1e9, "GB", _PEER_PEAK_GB),
        _row("GEMM", reached, "GFLOP/s", _PEER_GEMM),
    ]
    rows.append(_row("TorchEasyRec over Dayline", reference, "s", timed.total))
    return rows


def _row(figure: str, value: float, unit: str, reference: float | None) -> dict[str, Any]:
    ratio = None if reference is None else value / reference
    return {
        "case": "Criteo's shape",
        "figure": figure,
        "value": value,
        "unit": unit,
        "reference": reference,
        "ratio": ratio,
    }


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, nargs="?", help="folder to keep the rows in; by default they are deleted")
    parser.add_argument("--rows", type=int, default=_PEER_ROWS)
    parser.add_argument("--eval-rows", type=int, default=100_000)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--cold", action="store_true", help="leave out the run of few rows that comes first")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--peer-seconds", type=float, help="of the peer's commands on this machine")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as elsewhere:
        work = (arguments.work or Path(elsewhere)).absolute()
        work.mkdir(parents=True, exist_ok=True)
        rows = measure(work, arguments)
    print(f"{'figure':<28} {'value':>10} {'unit':<11} {'reference':>10} {'ratio':>6}")
    for row in rows:
        compared = f"{row['reference']:>10,.2f} {row['ratio']:>6.2f}" if row["reference"] else ""
        print(f"{row['figure']:<28} {row['value']:>10,.2f} {row['unit']:<11} {compared}".rstrip())
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
