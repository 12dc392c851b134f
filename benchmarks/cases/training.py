"""The models of `../training.py`, their data, and what a rank of one measures."""

import contextlib
import json
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from cases.training_data import COMMON, DAY, TABLES, last_clicks, ranking_data, retrieval_data

ROWS_PER_STEP = 8_192
CASES = ("dlrm", "two_tower", "two_tower_in_batch", "din", "dien", "sasrec")
RANKERS = ("dlrm", "din", "dien")
SEQUENCES_PER_STEP = 256
_HELD_BATCHES = 8
_WARM_UP_STEPS = 3


_ATTENTION = {"sequences": ["click_seq__item_id", "click_seq__i_cate"], "targets": ["item_id", "i_cate"]}
_TWO_TOWER = {"kind": "two_tower", "output_dim": 64, "query_hidden": [256, 128], "item_hidden": [256, 128]}
MODELS: dict[str, dict[str, Any]] = {
    "dlrm": {"kind": "dlrm", "bottom_hidden": [64], "top_hidden": [64, 32], "concat_pooled": True},
    "two_tower": _TWO_TOWER,
    "two_tower_in_batch": _TWO_TOWER,
    "din": {
        "kind": "multi_tower_din",
        "towers": [{"hidden": [256, 128]}],
        "attention": [_ATTENTION | {"hidden": [128, 64]}],
        "hidden": [64, 32],
    },
    "dien": {"kind": "dien", "behaviours": _ATTENTION, "max_length": 50, "hidden": [256, 128]},
    "sasrec": {"kind": "sasrec", "output_dim": 64, "max_length": 50},
}


def rows_per_step(case: str) -> int:
    """Return how many examples all ranks take a step: of whole sequences fewer, each with many targets."""
    return SEQUENCES_PER_STEP if case == "sasrec" else ROWS_PER_STEP


def _training(case: str, num_ranks: int, device: str, *, compiled: bool, precision: str) -> dict[str, Any]:
    return {
        "batch_size": rows_per_step(case) // num_ranks,
        "num_epochs": 1,
        "log_every_steps": 5,
        "checkpoint_every_steps": 1_000_000,
        "sparse_optimizer": {"kind": "adagrad", "learning_rate": 0.01},
        "dense_optimizer": {"kind": "adam", "learning_rate": 0.001},
        "sharding": {"device": device},
        "compile": compiled,
        "precision": precision,
    }


def _request(case: str, training: dict[str, Any], num_ranks: int, data: Any, work: Path) -> tuple[Any, Any]:
    """Return the module that trains, and its request."""
    from recsys_core.losses import binary_cross_entropy, sampled_softmax
    from recsys_core.ranking import Config
    from recsys_core.ranking import train as rank_train
    from recsys_core.retrieval import train as retrieval_train
    from recsys_core.samplers import weighted
    from recsys_core.training import config

    model = {"model": MODELS[case]}
    if case in RANKERS:
        shared = {"ranking": Config(label=TABLES[case][1]), "loss": binary_cross_entropy.Config(), "day": DAY}
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
        **COMMON,
    )


def work_as_rank(
    case: str, data: Path, prepared: Path, work: Path, num_steps: int, device: str, *, compiled: bool, precision: str
) -> None:
    """Measure one case on this rank; the first one writes the figures to `work`.

    What the case reads is made in the folder `prepared` the first time.
    """
    from recsys_core import distributed
    from recsys_core.loading.batch import moved
    from recsys_core.progress import Event
    from recsys_core.training import loop

    with distributed.world(device) as world:
        if world.is_first:
            made = (ranking_data if case in RANKERS else retrieval_data)(case, data, prepared)
        made = world.gather(made if world.is_first else None)[0]
        training = _training(case, world.num_ranks, device, compiled=compiled, precision=precision)
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
        done = loop.fit(
            trainer, request, None, receive, day=DAY, files={}, data=made, model=request.model, architecture=None
        )
        evaluated = _evaluated(case, trainer, request, data, world)
        if world.is_first:
            curve = pq.read_table(done.path / "curve.parquet")
            figures = {
                "floor": rows_per_step(case) / float(np.median(seconds)),
                "loop": done.examples_per_second,
                "data_wait_share": float(curve["data_wait_share"].to_numpy().mean()),
                "cpu": (ticks[-1][1] - started[1]) / (ticks[-1][0] - started[0]),
                "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1_024,
                **evaluated,
            }
            if case == "sasrec":
                figures["targets"] = done.examples_per_second * made.num_targets / made.num_rows
            (work / "figures.json").write_text(json.dumps(figures))
        world.barrier()


def _evaluated(case: str, trainer: Any, request: Any, data: Path, world: Any) -> dict[str, float]:
    """Evaluate the trained model as the evaluation stage does; return the speed of all ranks, and a ranker's AUC."""
    from recsys_core.progress import silent
    from recsys_core.ranking.objective import gathered
    from recsys_core.readers import parquet
    from recsys_core.retrieval import evaluate
    from recsys_core.retrieval.feed import Feed, ItemTable
    from recsys_core.samplers import weighted

    size, engine, model = request.config.batch_size, trainer.objective.engine, trainer.model.eval()
    if case in RANKERS:
        reader = parquet.Reader(parquet.Config(path=str(data / f"{TABLES[case][0]}_eval")))
        world.barrier()
        started = time.perf_counter()
        (rows,) = gathered(model, engine, request.ranking, reader, world, batch_size=size).values()
        return {"evaluation": len(rows.logits) / (time.perf_counter() - started), "auc": rows.metrics().auc}
    items = ItemTable(request.data.items, engine)
    pairs = last_clicks(data) if case == "sasrec" else pq.read_table(data / "dssm_eval")
    pairs = pairs.filter(pa.array(items.rows_of(pairs.column("item_id")) >= 0))
    feed = Feed(engine, items, weighted.Config(num_negatives=1_024), seed=0, rank=world.rank)
    asked = request.model_copy(update={"config": evaluate.Config(batch_size=size)})
    world.barrier()
    started = time.perf_counter()
    world.sum(evaluate.sums(asked, world, feed, model, pairs, silent))
    return {"evaluation": pairs.num_rows / (time.perf_counter() - started)}


def _batches(trainer: Any) -> Any:
    return trainer.objective.feed.batches(trainer.epoch(), epoch=0, step=0)


def _wait(world: Any) -> None:
    """Return when the device has done what it was given."""
    import torch

    if world.device.type == "cuda":
        torch.cuda.synchronize(world.device)
