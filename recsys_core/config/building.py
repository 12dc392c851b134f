"""Whether a config's model can be built, and trained on this machine: what takes torch to find out.

`python -m recsys_core.config` answers a question of `model_check`, which needs no torch.
"""

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

import psutil
import torch
from pydantic import ValidationError

from recsys_core import fault, launch, losses, models
from recsys_core.artifacts import Checkpoint
from recsys_core.config import RankingConfig, RunConfig, continuing, limits
from recsys_core.features import Engine
from recsys_core.losses.base import RankingLoss, RetrievalLoss
from recsys_core.models.base import RankingModel, RetrievalModel
from recsys_core.ranking import ONLY
from recsys_core.sections.optim import refuse_unfit
from recsys_core.training.config import Config as Train

_LOSSES = {"probability": "binary_cross_entropy", "value": "huber", "amount": "tweedie"}
# What a rank takes before it has a table: the interpreter, torch and its kernels.
_RANK_BYTES = 300 << 20


def check(config: RunConfig | RankingConfig) -> int:
    """Build the losses, and the model without any memory; return how many GPUs it could be trained on here.

    Raises:
        ValueError: one is of another contract, the model does not take the features or has other tasks than
            `ranking.tasks`, is larger than the ranks or this machine, or cannot be trained on `train.sharding.device`.
    """
    engine = Engine.build(config.features)
    with torch.device("meta"):
        model = _retrieval(config, engine) if isinstance(config, RunConfig) else _ranking(config, engine)
    dense_bytes = _dense_bytes(model)
    limits.check_dense(dense_bytes)
    if config.launch.kind != "local":
        # The machines that it runs on are not seen from here.
        if config.train.sharding.device == "cpu":
            _on_cpu(config.train, engine)
        return 0
    gpus = _gpus(config)
    if not gpus:
        _on_cpu(config.train, engine)
    _fits(config, engine, dense_bytes, gpus)
    return gpus


def _retrieval(config: RunConfig, engine: Engine) -> RetrievalModel:
    losses.build(config.loss, RetrievalLoss)
    return models.build(config.model, engine, RetrievalModel, tables_device="meta")


def _ranking(config: RankingConfig, engine: Engine) -> RankingModel:
    losses.build(config.loss, RankingLoss)
    for name, task in config.ranking.named.items():
        loss = task.loss or config.loss
        built = losses.build(loss, RankingLoss)
        if built.reads_groups and config.ranking.group is None:
            raise ValueError(
                f"loss.kind {loss.kind}: compares rows of one group, and ranking.group is null; name the column of "
                "their user or request there, or take a loss of single rows, such as binary_cross_entropy"
            )
        if built.learns != task.predicts:
            key = "ranking.predicts" if name == ONLY else f"ranking.tasks.{name}.predicts"
            raise ValueError(
                f"loss.kind {loss.kind}: the model learns a {built.learns} by it, and {key} is {task.predicts}; set "
                f"that to {built.learns}, or take a loss such as {_LOSSES[task.predicts]}"
            )
    model = models.build(config.model, engine, RankingModel, tables_device="meta")
    _has_tasks(config, model.tasks)
    if model.learns_over_all_rows and all(task.space == "given" for task in config.ranking.tasks.values()):
        raise ValueError(
            f"model.kind {config.model.kind}: no task learns over all rows; set `space: all` in ranking.tasks of those "
            "that have a `given`, such as conversions given clicks, or take a model of another kind"
        )
    return model


def _has_tasks(config: RankingConfig, built: tuple[str, ...]) -> None:
    tasks = (*config.ranking.tasks,)
    if built != tasks:
        named = f"ranking.tasks names {', '.join(tasks)}" if tasks else "ranking has one label"
        gives = f"gives {', '.join(built)}" if built else "gives one logit a row"
        raise ValueError(
            f"model.kind {config.model.kind}: {gives}, and {named}; name the same tasks in the same order in both, or "
            f"take a model of {'several tasks, such as shared_bottom, mmoe or ple' if tasks else 'one'}"
        )


def _dense_bytes(model: torch.nn.Module) -> int:
    """Return the memory of what every rank holds whole: all weights but those of tables."""
    held: Any = model.tables
    tables = {id(weight) for weight in held.parameters()}
    return sum(weight.numel() * weight.itemsize for weight in model.parameters() if id(weight) not in tables)


def _gpus(config: RunConfig | RankingConfig) -> int:
    asked, launched = config.train.sharding.device, config.launch
    gpus = torch.cuda.device_count() if asked != "cpu" and torch.cuda.is_available() else 0
    if asked == "cuda" and not gpus:
        raise ValueError("train.sharding.device: cuda, and torch sees no GPU here; set it to auto or cpu")
    if gpus and launched.num_ranks > gpus:
        raise ValueError(f"launch.num_ranks: {launched.num_ranks} ranks, and {gpus} GPUs here; each rank has one")
    return gpus


def _on_cpu(train: Train, engine: Engine) -> None:
    given = train.model_dump(exclude_unset=True)
    try:
        Train.model_validate(given | {"sharding": given.get("sharding", {}) | {"device": "cpu"}})
        refuse_unfit(train.sparse_optimizer, {table.name: table.dtype for table in engine.tables}, "cpu")
    except ValidationError as error:
        message = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
        raise ValueError(f"{message} (train.sharding.device: auto is cpu here, where torch sees no GPU)") from None


def _fits(config: RunConfig | RankingConfig, engine: Engine, dense_bytes: int, gpus: int) -> None:
    launched = config.launch
    there = psutil.virtual_memory().total + sum(torch.cuda.mem_get_info(gpu)[1] for gpu in range(gpus))
    ranks = launched.num_ranks * (_RANK_BYTES + dense_bytes)
    tables = limits.tables_bytes(engine.tables)
    if ranks > there:
        raise ValueError(
            f"launch.num_ranks: {launched.num_ranks} ranks take at least {limits.size(ranks)}, and this machine has "
            f"{limits.size(there)}; start fewer, or make the model's layers smaller"
        )
    if tables > there * launched.num_nodes:
        raise ValueError(
            f"features: the tables take at least {limits.size(tables)}, and {launched.num_nodes} machines like this "
            f"one have {limits.size(there * launched.num_nodes)} (launch.num_nodes); lower num_embeddings or "
            "embedding_dim"
        )


def _answer(question: dict[str, Any]) -> Any:
    record = RankingConfig if question["ranking"] else RunConfig
    config = record.model_validate(question["config"])
    if "base" not in question:
        return check(config)
    base, before = Checkpoint.model_validate(question["base"]), Engine.load(Path(question["before"]))
    return continuing.changes(config, base, before)


def main() -> None:
    """Answer the question on standard input by one line of JSON, the last one on standard output."""
    question = json.loads(sys.stdin.readline())
    threading.Thread(target=launch.exit_with_starter, daemon=True, name="watch-stdin").start()
    answer: dict[str, Any] = {}
    try:
        answer["found"] = _answer(question)
    except (ValueError, OSError) as error:
        answer["error"] = str(error)
    except Exception as error:  # noqa: BLE001 - what no code expected is a fault, and the one who asks says so
        answer["fault"] = fault.write(error, fault.temporary_file())
    sys.stdout.write(f"\n{json.dumps(answer)}\n")
    sys.stdout.flush()
    # Without taking torch apart, which takes a while.
    os._exit(0)
