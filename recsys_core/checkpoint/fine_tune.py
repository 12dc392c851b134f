"""Start a model from some of the weights of another one's checkpoint."""

import fnmatch
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recsys_core.checkpoint.carrying import Part, Source, table_of
from recsys_core.features import Engine, Rows, rows_of
from recsys_core.sections.checkpoint import FineTune, locate

_MODEL = "model."


def load(
    config: FineTune, weights: Mapping[str, Any], source: Source | None = None, engine: Engine | None = None
) -> list[Part]:
    """Fill the model's `weights` (by name, sharded or not) in place; return what was taken over of each chosen one.

    With `source`, rows of tables are taken over by their ids, and of dense weights what means the same in both models.
    Without, the features of the checkpoint's training are not at hand: what the features `engine` of now have learnt
    could not be compared, and all else is taken to mean what it means here.

    Raises:
        ValueError: no checkpoint, a pattern or a line of the map that names nothing, a parameter that the checkpoint
            lacks wholly or, of its rows and columns, partly (if `strict`), shapes that differ, or a table of rows that
            ids were given without a `source`; all of them are listed.
    """
    directory = locate(config.path)
    seen = source or Source(directory)
    sizes = sorted(seen.stored.sizes.items())
    known = {key.removeprefix(_MODEL): tuple(size) for key, size in sizes if key.startswith(_MODEL)}
    names = _chosen(config, weights)
    renamed = _read_map(config.parameter_map, weights, known) if config.parameter_map else {}
    sources = {name: renamed.get(name) or seen.source_of(name) or name for name in names}
    if config.strict and (missing := [name for name in names if sources[name] not in known]):
        raise ValueError(
            f"train.fine_tune_from: {directory} has no {_listed(missing)}; name them in exclude or in the "
            f"parameter_map, or set strict=false. It has {_listed(known)}"
        )
    sources = {name: of for name, of in sources.items() if of in known}
    if source is None and engine is not None:
        _refuse_learnt(config, sources, engine)
    tables = {name: of for name, of in sources.items() if table_of(name)}
    rows = {name: _rows(seen, name, of, tuple(weights[name].size())) for name, of in tables.items()}
    lacking = [
        f"\n  {name}: checkpoint {known[of]}, model {tuple(weights[name].size())}{lacks}"
        for name, of in sources.items()
        if (lacks := _lacks(config, seen, name, of, weights[name].size(), rows.get(name))) is not None
    ]
    if lacking:
        raise ValueError(f"train.fine_tune_from: these are not the same in {directory}:{''.join(lacking)}")
    with torch.no_grad():
        return [
            seen.take_table(name, _MODEL + of, weights[name], rows[name])
            if name in rows
            else seen.take_dense(name, of, weights[name], {})
            for name, of in sources.items()
        ]


def _rows(source: Source, name: str, of: str, size: tuple[int, ...]) -> Rows | None:
    """Return which rows of a table are of the same ids; all of them where the features of then are not known."""
    table, was = table_of(name), table_of(of)
    if source.engines is None:
        every = np.arange(size[0])
        return Rows(every, every)
    before, now = source.engines
    return rows_of(before, was, now, table) if table and was in before.encoders else None


def _lacks(config: FineTune, source: Source, name: str, of: str, size: torch.Size, rows: Rows | None) -> str | None:
    """Return what the checkpoint lacks of a weight, in words; None if nothing, or not all where some will do."""
    stored = source.stored.sizes[_MODEL + of]
    if source.engines is None:
        return None if stored == size else ""
    if table_of(name):
        same = rows is not None and len(rows.now) > 0
        if same and (stored[1:] == size[1:] or not config.strict):
            return None
        return "" if same else ", and no row of it is of an id that has one here"
    places = source.places(name, of, size)
    if places is None:
        return "" if stored != size else ", of which nothing means the same"
    whole = all(len(axis.now) == length for axis, length in zip(places, size, strict=True))
    if whole or not config.strict:
        return None
    counts = " x ".join(f"{len(axis.now)} of {length}" for axis, length in zip(places, size, strict=True))
    return f", of which {counts} mean the same; strict=false takes these"


def _refuse_learnt(config: FineTune, sources: Mapping[str, str], engine: Engine) -> None:
    for name in sources:
        table = table_of(name)
        if table in engine.encoders and engine.encoders[table].fitted is not None:
            raise ValueError(
                f"train.fine_tune_from: the rows of table {table!r} were given to ids, and the features of "
                f"{config.path}, which say to which ones, are not at hand; name their folder in "
                f"train.fine_tune_from.features, or {name} in exclude"
            )


def _chosen(config: FineTune, weights: Mapping[str, Any]) -> list[str]:
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
