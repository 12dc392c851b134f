"""What can be found wrong with a config on the machine that runs it: its files, its outputs, its device, its memory.

Nothing is read but names, what a file says of itself, and a sampler's weights; nothing is written.
"""

import datetime
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import torch
from pydantic import ValidationError

from recsys_core import contract, ingest, lookup, models, placeholders, readers, uri, writers
from recsys_core.artifacts import NextDay
from recsys_core.checkpoint import files
from recsys_core.config import RankingConfig, RunConfig, limits
from recsys_core.config.reading import visible
from recsys_core.datasets import daily
from recsys_core.features import Engine
from recsys_core.models.base import RankingModel, RetrievalModel
from recsys_core.odps import path as odps_path
from recsys_core.optim import refuse_unfit
from recsys_core.ranking import ingest as ranking_ingest
from recsys_core.ranking import prepare
from recsys_core.samplers import _weights as _item_weights
from recsys_core.samplers import weighted
from recsys_core.training.config import Config as Train

# What a rank takes before it has a table: the interpreter, torch and its kernels.
_RANK_BYTES = 300 << 20


def check(config: RunConfig | RankingConfig) -> None:
    """Look for the files that `config` names but its data, at where it writes, and for what it trains on.

    Raises:
        ValueError: one line for each of them that will not do, by its key.
    """
    checks: list[Callable[[], object]] = [
        lambda: _writable("run_root", config.run_root),
        *(lambda key=key, path=path: _output(key, path) for key, path in _outputs(config)),
        lambda: _trains(config),
        lambda: _start(config.train),
        lambda: config.train.sharding.settings,
    ]
    if isinstance(config, RunConfig):
        checks += [lambda: _contract(config), lambda: _weights(config)]
    mistakes: list[str] = []
    for each in checks:
        try:
            each()
        except ValueError as error:
            mistakes.append(str(error))
    if mistakes:
        raise ValueError("\n".join(mistakes))


def check_data(config: RunConfig | RankingConfig, day: datetime.date | None) -> None:
    """Look for the data on this machine, by name; what lies elsewhere is asked for when the run starts.

    Raises:
        ValueError: they are not there, or do not hold the day or the split that is needed.
    """
    if isinstance(config, RunConfig):
        if config.data.in_place:
            root = ingest.prepare(config.data, config.run_root, lambda _: None)
            alone = not isinstance(config.holdout, NextDay)
            day = day or daily.last_day(root, alone=alone)
            daily.require_day(root, day, last=day if alone else None)
        else:
            _source(config, ingest.CATALOGUE)
        return
    if config.is_daily:
        _days(config, day)
    elif config.data.in_place:
        _splits(config)
    else:
        _source(config, prepare.CATALOGUE)
    if (source := config.predict.source) is not None and "://" not in source:
        path = placeholders.fill(source, day or config.split_data.day)
        reader = readers.build(readers.infer(path, config.predict.csv))
        if config.predict.csv != readers.CsvOptions() and not isinstance(reader, readers.csv.Reader):
            raise ValueError(f"predict.csv: {path} is no CSV, so nothing reads this; leave it out")


def _days(config: RankingConfig, day: datetime.date | None) -> None:
    if "://" not in config.days.source:
        day = day or ranking_ingest.last_day(config.days, config.holdout)
        window = config.prepare.window_days
        ranking_ingest.needed(config.days, day, held_out=config.holdout, base_learned=None, window_days=window)


def _splits(config: RankingConfig) -> None:
    root = uri.local(config.data.source)
    wanted = {"train": "data.source", config.evaluate.split: "evaluate.split"}
    if config.train.evaluates:
        wanted["valid"] = "train.evaluate_every_steps, train.evaluate_every_epochs"
    for split, key in wanted.items():
        if not (root / split).is_dir():
            raise ValueError(f"{root}: has no folder {split}, which {key} needs; write it, or change {key}")


def _source(config: RunConfig | RankingConfig, catalogue: str) -> None:
    source = config.data.source
    paths = source.values() if isinstance(source, dict) else [source]
    if not any("://" in str(path) for path in paths):
        ingest.source_fingerprint(config.data, catalogue)


def _outputs(config: RunConfig | RankingConfig) -> Iterator[tuple[str, str]]:
    if isinstance(config, RunConfig):
        named = {"embed.items_output": config.embed.items_output, "embed.queries_output": config.embed.queries_output}
    else:
        named = {"predict.output": config.predict.output}
    for key, path in named.items():
        if path is not None:
            yield key, placeholders.fill(path, datetime.date(1970, 1, 1))


def _output(key: str, path: str) -> None:
    try:
        if path.startswith(odps_path.SCHEME):
            odps_path.parse(path)
            return
        writers.build(lookup.component("recsys_core.writers", "parquet").Config(path=path))
    except (ValueError, RuntimeError, OSError) as error:
        raise ValueError(f"{key}: {visible(str(error))}") from None
    _writable(key, Path(path))


def _writable(key: str, path: Path) -> None:
    """Check that the folder `path` can be made, or written to."""
    try:
        there = path.expanduser().absolute()
        while not there.exists() and there != there.parent:
            there = there.parent
    except (RuntimeError, OSError) as error:
        message = error.strerror if isinstance(error, OSError) else error
        raise ValueError(f"{key} {visible(str(path))}: cannot be looked for ({message}); name another place") from None
    if not there.is_dir():
        raise ValueError(f"{key} {path}: {there} is no folder; name another place")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(f"{key} {path}: {there} cannot be written to; name another place, or change its permissions")


def _contract(config: RunConfig) -> None:
    try:
        contract.agreed(config.contract)
    except (ValueError, OSError) as error:
        raise ValueError(f"contract.file: {error}") from None


def _weights(config: RunConfig) -> None:
    if isinstance(config.sampler, weighted.Config) and config.sampler.weights is not None:
        try:
            _item_weights.read(config.sampler.weights)
        except (ValueError, OSError) as error:
            raise ValueError(f"sampler.weights: {error}") from None


def _start(train: Train) -> None:
    if (start := train.fine_tune_from) is not None:
        try:
            files.locate(start.path)
        except ValueError as error:
            raise ValueError(f"train.fine_tune_from.path: {error}") from None
        if start.parameter_map is not None and not start.parameter_map.is_file():
            raise ValueError(f"train.fine_tune_from.parameter_map: no file {start.parameter_map}")
    if (plan := train.sharding.plan) is not None and not any(at.is_file() for at in (plan, plan / "plan.json")):
        raise ValueError(f"train.sharding.plan: {plan} is neither a plan nor a folder with a plan.json")


def _trains(config: RunConfig | RankingConfig) -> None:
    """Hold what is trained against the device that it would be trained on."""
    asked, launch = config.train.sharding.device, config.launch
    gpus = torch.cuda.device_count() if asked != "cpu" and torch.cuda.is_available() else 0
    if asked == "cuda" and not gpus:
        raise ValueError("train.sharding.device: cuda, and torch sees no GPU here; set it to auto or cpu")
    engine = Engine.build(config.features)
    product = RetrievalModel if isinstance(config, RunConfig) else RankingModel
    with torch.device("meta"):
        model = models.build(config.model, engine, product, tables_device="meta")  # pyright: ignore[reportArgumentType]
    if not gpus:
        _on_cpu(config.train, model)
    elif launch.num_ranks > gpus:
        raise ValueError(f"launch.num_ranks: {launch.num_ranks} ranks, and {gpus} GPUs here; each rank has one")
    _fits(config, engine, model, gpus)


def _on_cpu(train: Train, model: torch.nn.Module) -> None:
    given = train.model_dump(exclude_unset=True)
    try:
        Train.model_validate(given | {"sharding": given.get("sharding", {}) | {"device": "cpu"}})
        refuse_unfit(train.sparse_optimizer, model.tables, "cpu")  # pyright: ignore[reportArgumentType]
    except ValidationError as error:
        message = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
        raise ValueError(f"{message} (train.sharding.device: auto is cpu here, where torch sees no GPU)") from None


def _fits(config: RunConfig | RankingConfig, engine: Engine, model: torch.nn.Module, gpus: int) -> None:
    launch = config.launch
    there = psutil.virtual_memory().total + sum(torch.cuda.mem_get_info(gpu)[1] for gpu in range(gpus))
    ranks = launch.num_ranks * (_RANK_BYTES + limits.dense_bytes(model))
    tables = limits.tables_bytes(engine.tables)
    if ranks > there:
        raise ValueError(
            f"launch.num_ranks: {launch.num_ranks} ranks take at least {limits.size(ranks)}, and this machine has "
            f"{limits.size(there)}; start fewer, or make the model's layers smaller"
        )
    if tables > there * launch.num_nodes:
        raise ValueError(
            f"features: the tables take at least {limits.size(tables)}, and {launch.num_nodes} machines like this one "
            f"have {limits.size(there * launch.num_nodes)} (launch.num_nodes); lower num_embeddings or embedding_dim"
        )
