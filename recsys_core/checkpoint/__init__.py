"""Checkpoints: torch's distributed format, written aside and renamed, so that a directory that is there is whole."""

import json
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load as load_state
from torch.distributed.checkpoint.state_dict_saver import save as save_state

from recsys_core.artifacts import Frozen, move_into_place, write_text
from recsys_core.checkpoint import pieces
from recsys_core.distributed import World
from recsys_core.loader import Interval

_POSITION = "position.json"


class Position(Frozen):
    """Where training stands.

    `consumed` are intervals of the epoch's order, gathered from all ranks, and `loss_sum` is the sum of their
    examples' losses; `last_loss` is the mean of the epoch before. `best_value` is the best validation so far, that of
    step `best_step`, and `num_stale` how many have been worse since. `source` is the fingerprint of the rows' reader:
    for other rows, the position means nothing.
    """

    step: int = 0
    epoch: int = 0
    consumed: tuple[Interval, ...] = ()
    loss_sum: float = 0.0
    last_loss: float | None = None
    best_value: float | None = None
    best_step: int = 0
    num_stale: int = 0
    source: dict[str, str] = Field(default_factory=dict)

    def refuse_other_source(self, found: dict[str, str]) -> None:
        """Compare with the fingerprint of the rows as they are now.

        Raises:
            ValueError: a file or table has been changed, added or removed since; each is named.
        """
        names = [name for name in sorted({*self.source, *found}) if self.source.get(name) != found.get(name)]
        if self.source and names:
            told = "; ".join(
                f"{name} was {self.source.get(name, 'absent')} and is {found.get(name, 'absent')}" for name in names
            )
            raise ValueError(
                f"the rows have changed since the training was interrupted at step {self.step}: {told}. Bring them "
                "back as they were, or delete the run's directory and train from the beginning"
            )


def save(directory: Path, state: dict[str, Any], position: Position, here: World) -> None:
    """Write `state` (tensors, sharded or not) and `position` to `directory`; every rank calls this."""
    aside = directory.with_name(f".{directory.name}.partial")
    if here.is_first:
        shutil.rmtree(aside, ignore_errors=True)
        aside.parent.mkdir(parents=True, exist_ok=True)
    here.barrier()
    save_state(state, checkpoint_id=aside, planner=pieces.Save())
    if here.is_first:
        write_text(aside / _POSITION, position.model_dump_json())
        move_into_place(aside, directory)
    here.barrier()


def save_alone(directory: Path, state: dict[str, Any]) -> None:
    """Write `state` to `directory` without other ranks, as a checkpoint of a training that has not begun."""
    aside = directory.with_name(f".{directory.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    save_state(state, checkpoint_id=aside, no_dist=True)
    write_text(aside / _POSITION, Position().model_dump_json())
    move_into_place(aside, directory)


def position(directory: Path) -> Position:
    """Read where the checkpoint in `directory` stood."""
    return Position.model_validate(json.loads((directory / _POSITION).read_text()))


def latest(directory: Path) -> Path | None:
    """Return the checkpoint `step-<n>` of the highest step in `directory`, if any."""
    found = [path for path in directory.glob("step-*") if (path / _POSITION).is_file()]
    return max(found, key=lambda path: int(path.name.removeprefix("step-")), default=None)


def load_weights(directory: Path, weights: dict[str, Any], *, alone: bool = False) -> None:
    """Fill the model's `weights` in place as evaluation and export use them: by their moving average, if one is kept.

    Raises:
        ValueError: as `load`.
    """
    averaged = {
        name.removeprefix("average.")
        for name in FileSystemReader(directory).read_metadata().state_dict_metadata
        if name.startswith("average.")
    }
    state: dict[str, Any] = {"model": {name: value for name, value in weights.items() if name not in averaged}}
    if averaged:
        state["average"] = {name: value for name, value in weights.items() if name in averaged}
    load(directory, state, alone=alone)


def load(directory: Path, state: dict[str, Any], *, alone: bool = False, grown: Collection[str] = frozenset()) -> None:
    """Fill `state`'s tensors in place, whatever number of ranks wrote them; `alone` reads without other ranks.

    Of the keys in `grown` the checkpoint may have fewer rows; the rows that it lacks stay as they are.

    Raises:
        ValueError: the checkpoint is of another model; every differing key is listed.
    """
    reader = FileSystemReader(directory)
    stored = {
        key: meta.size
        for key, meta in reader.read_metadata().state_dict_metadata.items()
        if isinstance(meta, TensorStorageMetadata)
    }
    wanted = {key: value.size() for key, value in pieces.flat(state).items() if hasattr(value, "size")}
    differing = [
        f"  {key}: checkpoint {tuple(stored[key]) if key in stored else 'has none'}, model {tuple(shape)}"
        for key, shape in sorted(wanted.items())
        if stored.get(key) != shape and not (key in grown and _is_part(stored.get(key), shape))
    ]
    if differing:
        lines = "\n".join(differing)
        raise ValueError(
            f"{directory} is a checkpoint of another model:\n{lines}\n"
            "Give the features and the model the sizes it was trained with, or train from random weights with "
            "--set train.warm_start=false"
        )
    load_state(state, storage_reader=reader, planner=pieces.Load(grown), no_dist=alone)


def _is_part(stored: torch.Size | None, shape: torch.Size) -> bool:
    return stored is not None and stored[1:] == shape[1:] and stored[0] <= shape[0]
