"""Training speed of each kind of model: the whole loop against its floor, and against what TorchEasyRec reached.

    python benchmarks/training.py DATA [--cases NAME …] [--ranks N …] [--precision P …] [--devices NAME …] [--compile]
                                  [--steps N] [--json FILE]

DATA is a folder of Parquet tables: `criteo_train` (13 numbers, 26 ids), `dssm_train` (positives of queries and items)
and `din_train` (labelled, with click sequences), and an `_eval` of each. Batches have 8,192 rows per machine: two ranks
take half each. SASRec learns from whole click sequences, 256 a batch, packed: each click but the first is a target. The
loop reads, shuffles, encodes, waits and updates, as a run does, over every row; the floor takes the same batches from
memory and makes the same updates. Then the trained model evaluates: a ranker scores labelled rows,
two towers rank each positive among 1,024 sampled negatives. `wait` is the share of the loop's time in which it waits
for a batch, `cpu` the cores that the first rank keeps busy, `peak` its memory, `GEMM` the rate of a tower's product on
this machine right after the case, in GFLOP/s of float32.

`÷ peer` is the loop, and behind it the evaluation, over TorchEasyRec's on 500,000 such rows, as measured on two cores
where GEMM ran at 215 GFLOP/s, scaled to this machine's: the better of its one and two ranks.

`--compile` measures each case with `train.compile` as well. Where there is no GPU for a case, or a CPU that does not
multiply in bfloat16, it is not measured, and the table says so.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from cases.training import CASES, ROWS_PER_STEP, work_as_rank

_GEMM_REPEATS = 50
_PEER_GEMM = 215.0
_PEER: dict[str, dict[str, float]] = {
    "dlrm": {"training": 57_800, "evaluation": 117_000},
    "two_tower": {"training": 35_800, "evaluation": 11_000},
    "two_tower_in_batch": {"training": 9_500},
    "din": {"training": 6_900, "evaluation": 15_000},
}
_PEER_PEAK_BYTES = {"dlrm": 1.43e9, "din": 2.0e9}


class Way(NamedTuple):
    """One line of the table."""

    case: str
    precision: str
    num_ranks: int
    device: str
    compiled: bool

    @property
    def label(self) -> str:
        """What the row is called."""
        narrow = [] if self.precision == "float32" else [self.precision]
        return ", ".join([self.case, *(["compiled"] if self.compiled else []), *narrow])


def measure(way: Way, data: Path, prepared: Path, num_steps: int) -> dict[str, float]:
    """Run a case on processes that share the machine's cores; return its figures."""
    from recsys_core import launch

    (prepared / way.case).mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        command = [sys.executable, "-W", "ignore"]
        if way.num_ranks > 1:
            command += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={way.num_ranks}"]
        command += [__file__, str(data), "--worker", way.case, "--prepared", str(prepared / way.case), "--work", work]
        command += ["--steps", str(num_steps), "--devices", way.device, "--precision", way.precision]
        command += ["--compile"] if way.compiled else []
        environment = launch.environment(launch.Local(num_ranks=way.num_ranks))
        environment["PYTHONPATH"] = str(Path(__file__).parents[1])
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{way.label} on {way.num_ranks} rank(s) failed:\n{done.stderr}")
        return json.loads((Path(work) / "figures.json").read_text())


def gemm() -> float:
    """Return what a tower's product reaches here, in GFLOP/s of float32: shared machines change by the hour."""
    import torch

    left, right = torch.randn(ROWS_PER_STEP, 256), torch.randn(256, 128)
    seconds = []
    for _ in range(_GEMM_REPEATS):
        started = time.perf_counter()
        torch.mm(left, right)
        seconds.append(time.perf_counter() - started)
    return 2 * left.numel() * right.shape[1] / float(np.median(seconds)) / 1e9


def _missing(way: Way) -> str | None:
    """Return what this machine lacks for a case."""
    import torch

    if way.device == "cuda":
        num_gpus = torch.cuda.device_count()
        return f"{num_gpus} GPU(s) here" if way.num_ranks > num_gpus else None
    if way.precision == "bfloat16" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():  # noqa: SLF001
        return "this CPU does not multiply in bfloat16"
    return None


def _rows(way: Way, found: dict[str, float]) -> list[dict[str, Any]]:
    """Return the figures of a case, each with what it is compared with."""
    on_peer = {name: value * found["gemm"] / _PEER_GEMM for name, value in _PEER.get(way.case, {}).items()}
    compared: list[tuple[str, str, str, float | None]] = [
        ("training", "loop", "examples/s", on_peer.get("training")),
        ("targets", "targets", "targets/s", None),
        ("loop over floor", "loop", "examples/s", found["floor"]),
        ("evaluation", "evaluation", "examples/s", on_peer.get("evaluation")),
        ("data wait", "data_wait_share", "share", None),
        ("cpu", "cpu", "cores of the first rank", None),
        ("auc", "auc", "AUC", None),
        ("gemm", "gemm", "GFLOP/s", _PEER_GEMM),
    ]
    if way.num_ranks == 1:
        compared.append(("peak memory", "peak_bytes", "bytes", _PEER_PEAK_BYTES.get(way.case)))
    case = f"{way.label}, {way.num_ranks} rank(s)" + (", cuda" if way.device == "cuda" else "")
    return [
        _row(case, figure, found[name], unit, reference) for figure, name, unit, reference in compared if name in found
    ]


def _row(case: str, figure: str, value: float | None, unit: str, reference: float | None) -> dict[str, Any]:
    ratio = None if value is None or reference is None else value / reference
    return {"case": case, "figure": figure, "value": value, "unit": unit, "reference": reference, "ratio": ratio}


def _print(way: Way, found: dict[str, float], rows: list[dict[str, Any]]) -> None:
    ratios = {row["figure"]: row["ratio"] for row in rows}
    peers = " ".join(f"{ratios[name]:>5.2f}" if ratios.get(name) else "    -" for name in ("training", "evaluation"))
    auc = f"{found['auc']:.4f}" if "auc" in found else "-"
    print(
        f"{way.label:<28} {way.num_ranks:>5} {way.device:>6} {found['loop']:>9,.0f} {found['floor']:>9,.0f} "
        f"{ratios['loop over floor']:>6.2f} {found['data_wait_share']:>6.1%} {found['cpu']:>5.2f} "
        f"{found['evaluation']:>11,.0f} {auc:>6} {found['peak_bytes'] / 1e9:>5.2f} {found['gemm']:>5.0f} {peers:>11}",
        flush=True,
    )


def _of_ranks(loops: dict[Way, float]) -> list[dict[str, Any]]:
    """Return two ranks on one thread each over one rank on two, and print it."""
    rows: list[dict[str, Any]] = []
    for way, alone in loops.items():
        two = way._replace(num_ranks=2)
        if way.num_ranks == 1 and two in loops:
            rows.append(_row(way.label, "two ranks over one", loops[two], "examples/s", alone))
            print(f"{way.label:<28} two ranks over one: {rows[-1]['ratio']:.2f}")
    return rows


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--ranks", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--devices", nargs="+", choices=("cpu", "cuda"), default=["cpu"])
    parser.add_argument("--compile", action="store_true", help="measure each case with train.compile too")
    narrow = ("float32", "bfloat16", "float16")
    parser.add_argument("--precision", nargs="+", choices=narrow, default=["float32", "bfloat16"])
    parser.add_argument("--steps", type=int, default=20, help="updates by which the floor is measured")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    parser.add_argument("--worker", choices=CASES, help=argparse.SUPPRESS)
    parser.add_argument("--prepared", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Measure every case and print a table."""
    arguments = _arguments()
    if arguments.worker:
        (device,), (precision,) = arguments.devices, arguments.precision
        folders = arguments.data, arguments.prepared, arguments.work
        options = {"compiled": arguments.compile, "precision": precision}
        work_as_rank(arguments.worker, *folders, arguments.steps, device, **options)
        # As ranks of a run end: see `recsys_core.__main__`.
        os._exit(0)
    print(
        f"{'case':<28} {'ranks':>5} {'device':>6} {'loop':>9} {'floor':>9} {'ratio':>6} {'wait':>6} {'cpu':>5} "
        f"{'evaluation':>11} {'AUC':>6} {'peak':>5} {'GEMM':>5} {'÷ peer':>11}"
    )
    rows: list[dict[str, Any]] = []
    loops: dict[Way, float] = {}
    compiled = [False, True] if arguments.compile else [False]
    chosen = arguments.precision, arguments.cases, arguments.ranks, arguments.devices, compiled
    with tempfile.TemporaryDirectory() as prepared:
        for precision, case, num_ranks, device, is_compiled in itertools.product(*chosen):
            way = Way(case, precision, num_ranks, device, is_compiled)
            if missing := _missing(way):
                print(f"{way.label:<28} {num_ranks:>5} {device:>6} not measured: {missing}", flush=True)
                rows.append(_row(f"{way.label}, {num_ranks} rank(s), {device}", "training", None, "examples/s", None))
                continue
            found = measure(way, arguments.data, Path(prepared), arguments.steps)
            found["gemm"] = gemm()
            rows += (own := _rows(way, found))
            loops[way] = found["loop"]
            _print(way, found, own)
    rows += _of_ranks(loops)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
