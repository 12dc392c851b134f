"""The four models of `../training.py`, their data, and what a rank of one measures."""

import contextlib
import datetime
import json
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROWS_PER_STEP = 8_192
CASES = ("dlrm", "two_tower", "two_tower_in_batch", "din")
RANKERS = ("dlrm", "din")
DAY = datetime.date(2024, 1, 1)
_COMMON = {"config_hash": "benchmark", "code_version": "benchmark"}
_HELD_BATCHES = 8
_WARM_UP_STEPS = 3


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
    from recsys_core import artifacts, features
    from recsys_core.datasets.labelled import splits
    from recsys_core.progress import silent
    from recsys_core.ranking import Config, prepare

    if (work / "prepare").exists():
        return artifacts.LabelledData.load(work / "prepare")
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

    if (work / "preprocess").exists():
        return artifacts.TrainingData.load(work / "preprocess")
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
    if case in RANKERS:
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
            made = (_ranking_data if case in RANKERS else _retrieval_data)(case, data, prepared)
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
        done = loop.fit(
            trainer, request, None, receive, day=DAY, files={}, data=made, model=request.model, architecture=None
        )
        evaluated = _evaluated(case, trainer, request, data, world)
        if world.is_first:
            curve = pq.read_table(done.path / "curve.parquet")
            figures = {
                "floor": ROWS_PER_STEP / float(np.median(seconds)),
                "loop": done.examples_per_second,
                "data_wait_share": float(curve["data_wait_share"].to_numpy().mean()),
                "cpu": (ticks[-1][1] - started[1]) / (ticks[-1][0] - started[0]),
                "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1_024,
                **evaluated,
            }
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
        folder = {"dlrm": "criteo_eval", "din": "din_eval"}[case]
        reader = parquet.Reader(parquet.Config(path=str(data / folder)))
        world.barrier()
        started = time.perf_counter()
        (rows,) = gathered(model, engine, request.ranking, reader, world, batch_size=size).values()
        return {"evaluation": len(rows.logits) / (time.perf_counter() - started), "auc": rows.metrics().auc}
    items = ItemTable(request.data.items, engine)
    pairs = pq.read_table(data / "dssm_eval")
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
