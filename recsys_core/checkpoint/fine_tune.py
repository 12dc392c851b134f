"""Start a model from some of the weights of another one's checkpoint."""

import fnmatch
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from recsys_core.artifacts import Frozen
from recsys_core.checkpoint import files, storage

_MODEL = "model."


class Config(Frozen):
    """YAML section `train.fine_tune_from`: used where training starts from random weights."""

    path: Path = Field(description="a finished training's folder, or a checkpoint in it")
    parameter_map: Path | None = Field(
        default=None, description="text file, a line `new<TAB>old` for each parameter that has another name there"
    )
    include: tuple[str, ...] = Field(default=("*",), description="globs on the model's parameter names: what is loaded")
    exclude: tuple[str, ...] = Field(
        default=(), description="globs: what of that is not, and starts from random weights"
    )
    strict: bool = Field(default=True, description="false: what the checkpoint lacks starts from random weights")


def load(config: Config, weights: Mapping[str, Any]) -> list[str]:
    """Fill the model's `weights` (by name, sharded or not) in place; return the names that were filled.

    Raises:
        ValueError: no checkpoint, a pattern or a line of the map that names nothing, a parameter that the checkpoint
            lacks (if `strict`), or shapes that differ; all of them are listed.
    """
    directory = files.locate(config.path)
    stored = {
        record.key.removeprefix(_MODEL): record.shape
        for record in files.describe(directory)
        if record.key.startswith(_MODEL)
    }
    names = _chosen(config, weights)
    renamed = _read_map(config.parameter_map, weights, stored) if config.parameter_map else {}
    sources = {name: renamed.get(name, name) for name in names}
    if config.strict and (missing := [name for name in names if sources[name] not in stored]):
        raise ValueError(
            f"train.fine_tune_from: {directory} has no {_listed(missing)}; name them in exclude or in the "
            f"parameter_map, or set strict=false. It has {_listed(stored)}"
        )
    sources = {name: source for name, source in sources.items() if source in stored}
    differing = [
        f"\n  {name}: checkpoint {stored[source]}, model {tuple(weights[name].size())}"
        for name, source in sources.items()
        if stored[source] != tuple(weights[name].size())
    ]
    if differing:
        raise ValueError(f"train.fine_tune_from: these have other shapes in {directory}:{''.join(differing)}")
    left = dict(sources)
    while left:
        # Several parameters may start from the same one, each in a pass of its own.
        batch = {source: name for name, source in left.items()}
        storage.load(directory, {"model": {source: weights[name] for source, name in batch.items()}})
        left = {name: source for name, source in left.items() if name not in batch.values()}
    return list(sources)


def _chosen(config: Config, weights: Mapping[str, Any]) -> list[str]:
    matching = {pattern: fnmatch.filter(weights, pattern) for pattern in (*config.include, *config.exclude)}
    for pattern, names in matching.items():
        if not names:
            raise ValueError(
                f"train.fine_tune_from: {pattern!r} matches no parameter of the model, which has {_listed(weights)}"
            )
    included = {name for pattern in config.include for name in matching[pattern]}
    excluded = {name for pattern in config.exclude for name in matching[pattern]}
    return [name for name in weights if name in included - excluded]


def _read_map(path: Path, weights: Mapping[str, Any], stored: Mapping[str, Any]) -> dict[str, str]:
    if not path.is_file():
        raise ValueError(f"train.fine_tune_from.parameter_map: no file {path}")
    renamed: dict[str, str] = {}
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        pair = line.split()
        if not pair:
            continue
        if len(pair) != 2:
            raise ValueError(f"{path}:{number}: {line!r} is not of the form new<TAB>old")
        new, old = pair
        if new not in weights:
            raise ValueError(f"{path}:{number}: the model has no {new}; it has {_listed(weights)}")
        if old not in stored:
            raise ValueError(f"{path}:{number}: the checkpoint has no {old}; it has {_listed(stored)}")
        if new in renamed:
            raise ValueError(f"{path}:{number}: {new} is there twice")
        renamed[new] = old
    return renamed


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
