"""Checkpoints: torch's distributed format, written aside and renamed, so that a directory that is there is whole."""

import contextlib
import copy
import math
import shutil
from collections.abc import Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch.distributed._shard.sharded_tensor.api import ShardedTensor
from torch.distributed._shard.sharded_tensor.shard import Shard as TensorShard
from torch.distributed.checkpoint.state_dict_saver import save as save_state

from recsys_core.artifacts import Frozen, move_into_place
from recsys_core.checkpoint import chunks, files, storage
from recsys_core.distributed import World
from recsys_core.integrity import DamagedError, read_record, sealed, write_text
from recsys_core.loading.row_ranges import RowRange

_POSITION = "position.json"


class Validated(Frozen):
    """The figure of `train.best_metric` after a step."""

    step: int
    value: float


class TrainProgress(Frozen):
    """Where training stands.

    `consumed` are intervals of the epoch's order, gathered from all ranks, and `loss_sum` is the sum of their
    examples' losses; `last_loss` is the mean of the epoch before. `kept` are the best validations so far, the best one
    first, `num_stale` is how many have been worse since that, and `validated_step` the step of the last. `source` is
    the fingerprint of the rows' reader: for other rows, the position means nothing.
    """

    step: int = 0
    epoch: int = 0
    consumed: tuple[RowRange, ...] = ()
    loss_sum: float = 0.0
    last_loss: float | None = None
    kept: tuple[Validated, ...] = ()
    num_stale: int = 0
    validated_step: int = 0
    source: dict[str, str] = Field(default_factory=dict)

    def refuse_other_source(self, found: dict[str, str]) -> None:
        """Compare with the fingerprint of the rows as they are now.

        Raises:
            ValueError: a file or table has been changed, added or removed since; each is named.
        """
        names = [name for name in sorted({*self.source, *found}) if self.source.get(name) != found.get(name)]
        if self.source and names:
            message = "; ".join(
                f"{name} was {self.source.get(name, 'absent')} and is {found.get(name, 'absent')}" for name in names
            )
            raise ValueError(
                f"the rows have changed since the training was interrupted at step {self.step}: {message}. Bring them "
                "back as they were, or delete the run's directory and train from the beginning"
            )


def save(
    directory: Path, state: dict[str, Any], position: TrainProgress, world: World, *, keep: int | None = None
) -> None:
    """Write `state` (tensors, sharded or not) and `position` to `directory`; every rank calls this.

    With `keep`, only that many of the newest checkpoints beside it are kept, once it is there.
    """
    aside = directory.with_name(f".{directory.name}.partial")
    if world.is_first:
        shutil.rmtree(aside, ignore_errors=True)
        aside.parent.mkdir(parents=True, exist_ok=True)
    world.barrier()
    with storage.plain_errors(aside):
        save_state(state, storage_writer=storage.Writer(aside), planner=chunks.Save(), process_group=world.group)
    if world.is_first:
        write_text(aside / _POSITION, sealed(position.model_dump(mode="json")))
        move_into_place(aside, directory)
        if keep is not None:
            files.keep_newest(directory.parent, keep)
    world.barrier()


class Saver:
    """Writes one checkpoint after the other; in the background, from a copy in memory, while training goes on."""

    def __init__(self, world: World, *, in_background: bool) -> None:
        """Every rank makes one."""
        # The ranks' threads that write must not get between the collectives of those that train.
        self._world = world.beside() if in_background else world
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint") if in_background else None
        self._writing: Future[None] | None = None

    def save(self, directory: Path, state: dict[str, Any], position: TrainProgress, *, keep: int | None = None) -> None:
        """As `save` of this module. What is still being written is waited for, and its error raised."""
        self.wait()
        if self._pool is None:
            save(directory, state, position, self._world, keep=keep)
        else:
            self._writing = self._pool.submit(save, directory, _copied(state), position, self._world, keep=keep)

    def wait(self) -> None:
        """Return when nothing is being written any more; raise the error of what was."""
        if (writing := self._writing) is not None:
            self._writing = None
            writing.result()


def extremes(state: Any, device: torch.device, prefix: str = "") -> dict[str, torch.Tensor]:
    """Return the largest absolute value of each of `state`'s tensors of floats (its local chunks), by name.

    It is a scalar on `device`, not synchronised with the host; not finite where one of the tensor's elements is not.
    """
    if isinstance(state, dict):
        found: dict[str, torch.Tensor] = {}
        for name, value in state.items():
            found |= extremes(value, device, f"{prefix}.{name}" if prefix else str(name))
        return found
    if isinstance(state, ShardedTensor):
        chunks = [shard.tensor for shard in state.local_shards()]
    else:
        chunks = [state] if isinstance(state, torch.Tensor) else []
    largest = [
        torch.linalg.vector_norm(piece.detach(), math.inf).float().to(device)
        for piece in chunks
        if piece.is_floating_point() and piece.numel()
    ]
    return {prefix: torch.stack(largest).max()} if largest else {}


def _copied(state: Any) -> Any:
    """Return `state` with its tensors copied to memory that training does not touch."""
    if isinstance(state, dict):
        return {name: _copied(value) for name, value in state.items()}
    if isinstance(state, ShardedTensor):
        if any(shard.tensor.device.type != "cpu" for shard in state.local_shards()):
            return state.cpu()
        shards = [TensorShard(shard.tensor.detach().clone(), shard.metadata) for shard in state.local_shards()]
        metadata = copy.deepcopy(state.metadata())
        return ShardedTensor._init_from_local_shards_and_global_metadata(shards, metadata)  # noqa: SLF001
    return state.detach().to("cpu", copy=True) if isinstance(state, torch.Tensor) else copy.deepcopy(state)


def save_alone(directory: Path, state: dict[str, Any]) -> None:
    """Write `state` to `directory` without other ranks, as a checkpoint of a training that has not begun."""
    aside = directory.with_name(f".{directory.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    with storage.plain_errors(aside):
        save_state(state, storage_writer=storage.Writer(aside), no_dist=True)
    write_text(aside / _POSITION, sealed(TrainProgress().model_dump(mode="json")))
    move_into_place(aside, directory)


def position(directory: Path) -> TrainProgress:
    """Read where the checkpoint in `directory` stood.

    Raises:
        ValueError: that is missing or damaged; names the file.
    """
    return read_record(TrainProgress, directory / _POSITION)


def latest(directory: Path) -> Path | None:
    """Return the checkpoint `step-<n>` of the highest step in `directory`, if any."""
    found = [path for path in directory.glob("step-*") if (path / _POSITION).is_file()]
    return max(found, key=lambda path: int(path.name.removeprefix("step-")), default=None)


@contextlib.contextmanager
def resuming(directory: Path) -> Iterator[None]:
    """Inside, say of a damaged checkpoint of a training that was interrupted how it goes on without it."""
    try:
        yield
    except DamagedError as error:
        message = f"delete {directory}, and training goes on from the checkpoint before it, or from its beginning"
        raise ValueError(f"{error}; {message}") from None


def load_weights(directory: Path, weights: dict[str, Any], *, alone: bool = False) -> None:
    """Fill the model's `weights` in place as evaluation and export use them: by their moving average, if one is kept.

    Raises:
        ValueError: as `load`.
    """
    averaged = {
        name.removeprefix("average.") for name in storage.layout(directory).tensors if name.startswith("average.")
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
    stored = {key: torch.Size(held.shape) for key, held in storage.layout(directory).tensors.items()}
    wanted = {key: value.size() for key, value in chunks.flat(state).items() if hasattr(value, "size")}
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
    storage.load(directory, state, planner=chunks.Load(grown), alone=alone)


def _is_part(stored: torch.Size | None, shape: torch.Size) -> bool:
    return stored is not None and stored[1:] == shape[1:] and stored[0] <= shape[0]
