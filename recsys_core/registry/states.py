"""The states of a training, finished or not, as checkpoints; a folder of weights that was copied alone is one, too."""

import datetime
from pathlib import Path

from recsys_core import integrity
from recsys_core.artifacts import MANIFEST, MODEL, STATE, Checkpoint
from recsys_core.integrity import digest_of, digest_of_file
from recsys_core.sections.checkpoint import METADATA

_STEPS = "steps"
_MAX_DEPTH = 3  # a state that validated well lies in `best/step-<n>` of its training's folder
_MARKS = (MANIFEST, MODEL, "lineage.json")


def training_of(folder: Path) -> Path:
    """Return the folder of the training that `folder` is, or is a state of; itself if nothing says so."""
    # Of `.` and of links there would be no parents.
    above = [folder, *folder.absolute().parents[: _MAX_DEPTH - 1]]
    return next((one for one in above if any((one / mark).is_file() for mark in _MARKS)), folder)


def checkpoint_at(folder: Path, step: int | None = None) -> Checkpoint:
    """Return the state at `folder`, which is one, or a training's: its best one, or that of `step`.

    Of a training that has not ended it is the newest one.

    Raises:
        ValueError: there is none, or none of that step; those that there are are named.
    """
    training = training_of(folder)
    if (training / MANIFEST).is_file():
        made = Checkpoint.load(training)
        if folder != training:
            return _kept(made, folder)
        return made.at(step)
    if (folder / METADATA).is_file():
        return _bare(folder, step)
    if (folder / STATE / METADATA).is_file():
        return _bare(folder / STATE, step)
    steps = {
        int(one.parent.name.removeprefix("step-")): one.parent for one in folder.glob(f"{_STEPS}/step-*/{METADATA}")
    }
    best = {int(one.parent.name.removeprefix("step-")): one.parent for one in folder.glob(f"best/step-*/{METADATA}")}
    found = steps | best
    if not found:
        raise ValueError(f"{folder}: no checkpoint there; name a training's folder, such as runs/NAME/DAY/RUN_ID/train")
    chosen = max(steps or best) if step is None else step
    if chosen not in found:
        raise ValueError(f"{folder}: no checkpoint of step {step}, only of {', '.join(map(str, sorted(found)))}")
    return _bare(found[chosen], None)


def _kept(made: Checkpoint, folder: Path) -> Checkpoint:
    """Return a finished training with the state that lies at `folder` in it."""
    inside = folder.absolute().relative_to(made.path.absolute()).as_posix()
    if inside == made.folder:
        return made
    step = next((one.step for one in made.kept if one.folder == inside), None)
    if step is None:
        raise ValueError(f"{folder}: no state that {made.path} has kept; name one of its states, or the training")
    return made.at(step)


def _bare(folder: Path, step: int | None) -> Checkpoint:
    """Return a state that no manifest is about; what only a manifest says of a training is zero."""
    position = folder / "position.json"
    stands = int(integrity.read_json(position).get("step", 0)) if position.is_file() else 0
    if step is not None and step != stands:
        raise ValueError(f"{folder}: a state of step {stands}, and not of {step}; leave the step out")
    names = sorted(file.name for file in folder.iterdir() if file.is_file())
    return Checkpoint(
        path=folder.parent,
        folder=folder.name,
        key="",
        digest=digest_of([[name, digest_of_file(folder / name)] for name in names]),
        num_rows=0,
        config_hash="",
        code_version="",
        files=(),
        day=datetime.date.min,
        num_steps=stands,
        loss=0.0,
        examples_per_second=0.0,
        num_ranks=0,
        warm_started_from=None,
    )
