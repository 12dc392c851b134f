"""What a finished training says of itself to those that start from it: how its weights are laid out, and its features.

Trainings of before this was recorded have no such file. Their layout is the one that their features give the model of
now, and their features are looked for where a run keeps them.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from recsys_core import integrity
from recsys_core.artifacts import FEATURES, Frozen
from recsys_core.features import Engine
from recsys_core.models.blocks.layout import Weight
from recsys_core.sections.checkpoint import locate

RECORD = "lineage.json"
_FEATURES = ("export/features", "preprocess/features", "prepare/features")
_MAX_DEPTH = 3  # the state of a training that validated well lies in `best/step-<n>` of its folder


class Lineage(Frozen):
    """`layout` by the names of weights, the kinds of the optimizers, and where the training had its features."""

    layout: dict[str, Weight]
    sparse_optimizer: str
    dense_optimizer: str
    engine: str
    engine_digest: str

    def save(self, directory: Path) -> None:
        """Write it into the training's folder `directory`."""
        integrity.write_text(directory / RECORD, integrity.sealed(self.model_dump(mode="json")))


def of(path: Path) -> Lineage | None:
    """Return what the training says whose folder, or a checkpoint in it, is `path`; None if it says nothing.

    Raises:
        ValueError: it is damaged.
    """
    record = _training(path) / RECORD
    return integrity.read_record(Lineage, record) if record.is_file() else None


def engine(path: Path, said: Lineage | None, named: Path | None = None) -> Engine | None:
    """Return the fitted features of the training at `path`; None if they are not at hand.

    They are in `named` if that is given, else where the training had them, or in another folder of its run.

    Raises:
        ValueError: in `named` there are none, or those of another training.
    """
    for folder in [named] if named is not None else _places(path, said):
        if named is None and not folder.is_dir():
            continue
        found = Engine.load(folder)
        if said is None or found.digest == said.engine_digest:
            return found
        if named is not None:
            raise ValueError(f"{named}: these are not the features that {path} was trained with")
    return None


def _places(path: Path, said: Lineage | None) -> Iterator[Path]:
    training = _training(path)
    yield training / FEATURES
    if said is not None:
        yield training / said.engine
    for folder in _FEATURES:
        yield training.parent / folder


def relative(engine: Path, training: Path) -> str:
    """Return where `engine` lies, seen from the training's folder: both are often moved together."""
    return os.path.relpath(engine.absolute(), training.absolute())


def _training(path: Path) -> Path:
    """Return the folder of the training that the checkpoint at `path` is of."""
    directory = locate(path)
    above = [directory, *directory.parents[: _MAX_DEPTH - 1]]
    # Without a record it is what holds the folder `state`.
    return next((folder for folder in above if (folder / RECORD).is_file()), directory.parent)
