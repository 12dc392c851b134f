"""What can be found wrong with a config on the machine that runs it: its files and its outputs.

Nothing is read but names, what a file says of itself, and a sampler's weights; nothing is written.
"""

import datetime
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from recsys_core import contract, ingest, lookup, placeholders, readers, uri, writers
from recsys_core.artifacts import NextDay
from recsys_core.config import RankingConfig, RunConfig
from recsys_core.config.reading import visible
from recsys_core.datasets import daily, examples
from recsys_core.odps import path as odps_path
from recsys_core.ranking import ingest as ranking_ingest
from recsys_core.ranking import prepare
from recsys_core.retrieval import ingest as examples_ingest
from recsys_core.samplers import _weights as _item_weights
from recsys_core.samplers import weighted
from recsys_core.sections.checkpoint import locate
from recsys_core.training.config import Config as Train


def check(config: RunConfig | RankingConfig) -> None:
    """Look for the files that `config` names but its data, and at where it writes.

    Raises:
        ValueError: one line for each of them that will not do, by its key.
    """
    checks: list[Callable[[], object]] = [
        lambda: _writable("run_root", config.run_root),
        *(lambda key=key, path=path: _output(key, path) for key, path in _outputs(config)),
        lambda: _start(config.train),
        lambda: config.train.sharding.settings(config.train.sharding.device),
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
        if config.examples is not None:
            _examples(config.examples, day, config.preprocess.window_days)
        elif config.data.in_place:
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


def _examples(data: examples.Config, day: datetime.date | None, window_days: int | None) -> None:
    if not any("://" in path for path in data.source.values()):
        data = data.of_day(day)
        examples_ingest.needed(data, day or examples_ingest.last_day(data), base_learned=None, window_days=window_days)


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
            locate(start.path)
        except ValueError as error:
            raise ValueError(f"train.fine_tune_from.path: {error}") from None
        if start.parameter_map is not None and not start.parameter_map.is_file():
            raise ValueError(f"train.fine_tune_from.parameter_map: no file {start.parameter_map}")
    if (plan := train.sharding.plan) is not None and not any(at.is_file() for at in (plan, plan / "plan.json")):
        raise ValueError(f"train.sharding.plan: {plan} is neither a plan nor a folder with a plan.json")
