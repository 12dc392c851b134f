"""Training speed of each kind of model: the whole loop against its floor, the same updates on batches in memory.

    python benchmarks/training.py DATA [--cases NAME …] [--ranks N …] [--devices NAME …] [--compile] [--precision P]
                                  [--steps N] [--json FILE]

DATA is a folder of Parquet tables: `criteo_train` (13 numbers, 26 ids), `dssm_train` (positives of queries and items)
and `din_train` (labelled, with click sequences), and an `_eval` of each. Batches have 8,192 rows per machine: two ranks
take half each. The loop reads, shuffles, encodes, waits and updates, as a run does, over every row; the floor takes the
same batches from memory and makes the same updates. Then the trained model evaluates: a ranker scores labelled rows,
two towers rank each positive among 1,024 sampled negatives. `data wait` is the share of the loop's time in which it
waits for a batch, `cpu` the cores that the process keeps busy, `GEMM` the rate of a tower's product on this machine
right after the case. The ratio is the loop over the floor. `--compile` measures each case with `train.compile` as well;
`--precision bfloat16` multiplies in narrow numbers.
Where there is no GPU for a case, it is not measured, and the table says so.
"""

import argparse
import contextlib
import datetime
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROWS_PER_STEP = 8_192
CASES = ("dlrm", "two_tower", "two_tower_in_batch", "din")
DAY = datetime.date(2024, 1, 1)
_COMMON = {"config_hash": "benchmark", "code_version": "benchmark"}
_HELD_BATCHES = 8
_WARM_UP_STEPS = 3
_GEMM_REPEATS = 50


def _id(name: str, num_embeddings: int) -> dict[str, Any]:
    return {"kind": "id", "name": name, "encoding": "identity", "num_embeddings": num_embeddings}


_QUERY = [_id("user_id", 200_000), _id("u_age", 10), _id("u_city", 400), _id("u_seg", 100)]
_QUERY += [{"kind": "raw", "name": "u_act"}]
_ITEM = [_id("item_id", 100_000), _id("i_cate", 1_000), _id("i_brand", 10_000), {"kind": "raw", "name": "i_price"}]
_SEQUENCES = [
    {"kind": "sequence", "name": f"click_seq__{table}", "table": table, "pooling": "none"}
    for table in ("item_id", "i_cate")
]
FEATURES: dict[str, dict[str, Any]] = {
    "dlrm": {
        "query": [{"kind": "raw", "name": f"int_{n}"} for n in range(13)]
        + [_id(f"cat_{n}", 100_000) for n in range(26)],
        "item": [],
    },
    "two_tower": {"query": _QUERY, "item": _ITEM},
    "two_tower_in_batch": {"query": _QUERY, "item": _ITEM},
    "din": {"query": _QUERY + _SEQUENCES, "item": _ITEM},
}
_TWO_TOWER = {"kind": "two_tower", "output_dim": 64, "query_hidden": [256, 128], "item_hidden": [256, 128]}
MODELS: dict[str, dict[str, Any]] = {
    "dlrm": {"kind": "dlrm", "bottom_hidden": [64], "top_hidden": [64, 32], "concat_pooled": True},
    "two_tower": _TWO_TOWER,
    "two_tower_in_batch": _TWO_TOWER,
    "din": {
        "kind": "multi_tower_din",
        "towers": [{"hidden": [256, 128]}],
        "attention": [
            {
                "sequences": ["click_seq__item_id", "click_seq__i_cate"],
                "targets": ["item_id", "i_cate"],
                "hidden": [128, 64],
            }
        ],
        "hidden": [64, 32],
    },
}


def _training(num_ranks: int, device: str, *, compiled: bool, precision: str = "float32") -> dict[str, Any]:
    return {
        "batch_size": ROWS_PER_STEP // num_ranks,
        "num_epochs": 1,
        "log_every_steps": 5,
        "checkpoint_every_steps": 1_000_000,
        "sparse_optimizer": {"kind": "adagrad", "learning_rate": 0.01},
        "dense_optimizer": {"kind": "adam", "learning_rate": 0.001},
        "sharding": {"device": device},
        "compile": compiled,
        "precision": precision,
    }


def _ranking_data(case: str, data: Path, work: Path) -> Any:
    from recsys_core import features
    from recsys_core.datasets.labelled import splits
    from recsys_core.progress import silent
    from recsys_core.ranking import Config, prepare

    folder = {"dlrm": "criteo_train", "din": "din_train"}[case]
    (work / "log").mkdir()
    (work / "log" / "train").symlink_to((data / folder).absolute())
    request = prepare.Request(
        output=work / "prepare",
        config=Config(label=_label(case)),
        data=splits.Config(source=str(work / "log"), day=DAY),
        features=features.Config.model_validate({"embedding_dim": 16} | FEATURES[case]),
        import_root=work,
        fingerprint="benchmark",
        **_COMMON,
    )
    return prepare.run(request, silent)


def _label(case: str) -> str:
    return {"dlrm": "label", "din": "clk"}[case]


def _retrieval_data(case: str, data: Path, work: Path) -> Any:
    from recsys_core import artifacts, features

    examples = pq.read_table(data / "dssm_train")
    columns = [feature["name"] for feature in _ITEM]
    items = examples.group_by("item_id").aggregate([*((name, "min") for name in columns[1:]), ("item_id", "count")])
    items = items.rename_columns(["item_id", *columns[1:], "num_interactions"])
    weights = items["num_interactions"].to_numpy() ** 0.75
    engine = features.Engine.build(features.Config.model_validate({"embedding_dim": 16} | FEATURES[case]))
    with artifacts.pending(work / "preprocess") as aside:
        (aside.path / "items").mkdir()
        pq.write_table(items.append_column("sampling_weight", pa.array(weights)), aside.path / "items" / "0.parquet")
        (aside.path / "examples").symlink_to((data / "dssm_train").absolute())
        engine.save(aside.path / "features")
        return aside.commit(
            artifacts.TrainingData,
            artifacts.Request(output=work / "preprocess", **_COMMON),
            num_rows=examples.num_rows,
            day=DAY,
            first_day=DAY,
            ground_truth_day=DAY,
            num_items=items.num_rows,
            num_queries=0,
            num_ground_truth=0,
            engine_digest=engine.digest,
        )


def _request(case: str, training: dict[str, Any], num_ranks: int, data: Any, work: Path) -> tuple[Any, Any]:
    """Return the module that trains, and its request."""
    from recsys_core.losses import binary_cross_entropy, sampled_softmax
    from recsys_core.ranking import Config
    from recsys_core.ranking import train as rank_train
    from recsys_core.retrieval import train as retrieval_train
    from recsys_core.samplers import weighted
    from recsys_core.training import config

    model = {"model": MODELS[case]}
    if case in ("dlrm", "din"):
        shared = {"ranking": Config(label=_label(case)), "loss": binary_cross_entropy.Config(), "day": DAY}
        module: Any = rank_train
    else:
        in_batch = case == "two_tower_in_batch"
        # In-batch negatives alone: a sampler has to draw one at least.
        sampler = weighted.Config(num_negatives=1 if in_batch else 1_024)
        shared = {"sampler": sampler, "loss": sampled_softmax.Config(in_batch_negatives=in_batch), "base": None}
        module = retrieval_train
    return module, module.Request(
        output=work / "train",
        config=config.Config.model_validate(training),
        num_ranks=num_ranks,
        seed=0,
        data=data,
        **shared,
        **model,
        **_COMMON,
    )


def work_as_rank(
    case: str, data: Path, work: Path, num_steps: int, device: str, *, compiled: bool, precision: str
) -> None:
    """Measure one case on this rank; the first one writes the figures to `work`."""
    import torch

    from recsys_core import distributed
    from recsys_core.loading.batch import moved
    from recsys_core.progress import Event
    from recsys_core.training import loop

    with distributed.world(device) as world:
        if world.is_first:
            made = (_ranking_data if case in ("dlrm", "din") else _retrieval_data)(case, data, work)
        made = world.gather(made if world.is_first else None)[0]
        training = _training(world.num_ranks, device, compiled=compiled, precision=precision)
        module, request = _request(case, training, world.num_ranks, made, work)
        trainer = module.trainer(request, world)
        with contextlib.closing(_batches(trainer)) as read:
            batches = [moved(batch, world.device) for (batch, _), _ in zip(read, range(_HELD_BATCHES), strict=False)]
        for number in range(_WARM_UP_STEPS):
            trainer.step(batches[number], number)
        _wait(world)
        world.barrier()
        seconds = []
        for number in range(num_steps):
            started = time.perf_counter()
            trainer.step(batches[number % len(batches)], number)
            _wait(world)
            seconds.append(time.perf_counter() - started)
        ticks: list[tuple[float, float]] = []
        del batches

        def receive(event: Event) -> None:
            if event.metrics:
                ticks.append((time.perf_counter(), time.process_time()))

        started = time.perf_counter(), time.process_time()
        done = loop.fit(trainer, request, None, receive, day=DAY, files={}, data=made, architecture=None)
        evaluated = _evaluated(case, trainer, request, data, world)
        if world.is_first:
            curve = pq.read_table(done.path / "curve.parquet")
            figures = {
                "floor": ROWS_PER_STEP / float(np.median(seconds)),
                "loop": done.examples_per_second,
                "data_wait_share": float(curve["data_wait_share"].to_numpy().mean()),
                "cpu": (ticks[-1][1] - started[1]) / (ticks[-1][0] - started[0]),
                "evaluation": evaluated,
                "threads": torch.get_num_threads(),
            }
            (work / "figures.json").write_text(json.dumps(figures))
        world.barrier()


def _evaluated(case: str, trainer: Any, request: Any, data: Path, world: Any) -> float:
    """Evaluate the trained model as the evaluation stage does; return the examples per second of all ranks."""
    from recsys_core.progress import silent
    from recsys_core.ranking.objective import gathered
    from recsys_core.readers import parquet
    from recsys_core.retrieval import evaluate
    from recsys_core.retrieval.feed import Feed, ItemTable
    from recsys_core.samplers import weighted

    size, engine, model = request.config.batch_size, trainer.objective.engine, trainer.model.eval()
    if case in ("dlrm", "din"):
        folder = {"dlrm": "criteo_eval", "din": "din_eval"}[case]
        reader = parquet.Reader(parquet.Config(path=str(data / folder)))
        world.barrier()
        started = time.perf_counter()
        (rows,) = gathered(model, engine, request.ranking, reader, world, batch_size=size).values()
        return len(rows.logits) / (time.perf_counter() - started)
    items = ItemTable(request.data.items, engine)
    pairs = pq.read_table(data / "dssm_eval")
    pairs = pairs.filter(pa.array(items.rows_of(pairs.column("item_id")) >= 0))
    feed = Feed(engine, items, weighted.Config(num_negatives=1_024), seed=0, rank=world.rank)
    asked = request.model_copy(update={"config": evaluate.Config(batch_size=size)})
    world.barrier()
    started = time.perf_counter()
    world.sum(evaluate.sums(asked, world, feed, model, pairs, silent))
    return pairs.num_rows / (time.perf_counter() - started)


def _batches(trainer: Any) -> Any:
    return trainer.objective.feed.batches(trainer.epoch(), epoch=0, step=0)


def _wait(world: Any) -> None:
    """Return when the device has done what it was given."""
    import torch

    if world.device.type == "cuda":
        torch.cuda.synchronize(world.device)


def measure(
    case: str, num_ranks: int, data: Path, num_steps: int, device: str, *, compiled: bool, precision: str
) -> dict[str, float]:
    """Run a case on `num_ranks` processes that share the machine's cores; return its figures."""
    from recsys_core import launch

    with tempfile.TemporaryDirectory() as work:
        command = [sys.executable, "-W", "ignore"]
        if num_ranks > 1:
            command += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num_ranks}"]
        command += [__file__, str(data), "--worker", case, "--work", work, "--steps", str(num_steps)]
        command += ["--devices", device, "--precision", precision, *(["--compile"] if compiled else [])]
        environment = launch.environment(launch.Config(num_ranks=num_ranks))
        environment["PYTHONPATH"] = str(Path(__file__).parents[1])
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{case} on {num_ranks} rank(s) failed:\n{done.stderr}")
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


def _num_gpus() -> int:
    import torch

    return torch.cuda.device_count()


def main() -> None:
    """Measure every case and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--ranks", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--devices", nargs="+", choices=("cpu", "cuda"), default=["cpu", "cuda"])
    parser.add_argument("--compile", action="store_true", help="measure each case with train.compile too")
    parser.add_argument("--precision", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--steps", type=int, default=20, help="updates by which the floor is measured")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    parser.add_argument("--worker", choices=CASES, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        (device,) = arguments.devices
        shared = arguments.data, arguments.work, arguments.steps, device
        work_as_rank(arguments.worker, *shared, compiled=arguments.compile, precision=arguments.precision)
        # As ranks of a run end: see `recsys_core.__main__`.
        os._exit(0)
    print(
        f"{'case':<28} {'ranks':>5} {'device':>6} {'loop':>10} {'floor':>10}  examples/s  {'ratio':>5} "
        f"{'data wait':>10} {'cpu':>5} {'evaluation':>11} {'GEMM':>5} GFLOP/s"
    )
    rows: list[dict[str, Any]] = []
    ways = itertools.product(
        arguments.cases, arguments.ranks, arguments.devices, [False, True][: 1 + arguments.compile]
    )
    for case, num_ranks, device, compiled in ways:
        label = f"{case}, compiled" if compiled else case
        label += "" if arguments.precision == "float32" else f", {arguments.precision}"
        head = f"{label:<28} {num_ranks:>5} {device:>6}"
        named = {"case": f"{label}, {num_ranks} rank(s)" + (", cuda" if device == "cuda" else "")}
        if device == "cuda" and num_ranks > _num_gpus():
            print(f"{head} not measured: {_num_gpus()} GPU(s) here", flush=True)
            unknown = {"value": None, "unit": "examples/s", "reference": None, "ratio": None}
            rows.append(named | {"figure": "training"} | unknown)
            continue
        found = measure(
            case,
            num_ranks,
            arguments.data,
            arguments.steps,
            device,
            compiled=compiled,
            precision=arguments.precision,
        )
        found["gemm"] = gemm()
        ratio = found["loop"] / found["floor"]
        print(
            f"{head} {found['loop']:>10,.0f} {found['floor']:>10,.0f} {ratio:>18.2f} {found['data_wait_share']:>10.1%} "
            f"{found['cpu']:>5.2f} {found['evaluation']:>11,.0f} {found['gemm']:>5.0f}",
            flush=True,
        )
        speed = {"figure": "training", "value": found["loop"], "unit": "examples/s"}
        rows.append(named | speed | {"reference": found["floor"], "ratio": ratio})
        for figure, unit in (
            ("gemm", "GFLOP/s"),
            ("data_wait_share", "share"),
            ("cpu", "cores of the first rank"),
            ("evaluation", "examples/s"),
        ):
            figures = {"figure": figure, "value": found[figure], "unit": unit}
            rows.append(named | figures | {"reference": None, "ratio": None})
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
