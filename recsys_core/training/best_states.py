"""The states of a training that validated best: which they are, and the folder where they lie, `step-<n>` each."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from recsys_core import artifacts
from recsys_core.checkpoint import TrainProgress, Validated
from recsys_core.distributed import World
from recsys_core.metrics.ranking import direction


def ranked(position: TrainProgress, found: Mapping[str, float], metric: str, *, count: int) -> TrainProgress:
    """Return the position after a validation that has `found` its figures: its state is among the best, or is stale.

    At most `count` states are kept; of equal ones the earlier is the better.

    Raises:
        ValueError: `metric`, by which `train.best_metric` chooses, is not among the figures.
    """
    if metric not in found:
        raise ValueError(f"train.best_metric: the validation rows have no {metric}, only {', '.join(found)}")
    sign = -1 if direction(metric) == "up" else 1
    now = Validated(step=position.step, value=found[metric])
    kept = tuple(sorted([*position.kept, now], key=lambda one: (sign * one.value, one.step))[:count])
    num_stale = 0 if kept[0] == now else position.num_stale + 1
    return position.model_copy(update={"kept": kept, "num_stale": num_stale, "validated_step": position.step})


def place(directory: Path, step: int) -> Path:
    """Return where the state of `step` lies."""
    return directory / f"step-{step}"


def tidy(directory: Path, position: TrainProgress) -> None:
    """Delete the states in `directory` that are none of the position's; one may be being written meanwhile."""
    keep = {place(directory, one.step) for one in position.kept}
    for path in directory.glob("step-*"):
        if path not in keep:
            shutil.rmtree(path)


def still_there(directory: Path, position: TrainProgress, world: World) -> TrainProgress:
    """Return the position of a checkpoint that training goes on from, without states that have given way since.

    They gave way to states of later steps, which are made and measured again.
    """
    kept = world.share(lambda: tuple(one for one in position.kept if place(directory, one.step).is_dir()))
    return position.model_copy(update={"kept": kept})


def finish(directory: Path, position: TrainProgress, metric: str) -> tuple[artifacts.KeptState, ...]:
    """Leave in `directory` what is not the very best, which is what training ends with; return all that is kept."""
    tidy(directory, position.model_copy(update={"kept": position.kept[1:]}))
    for half_written in directory.glob(".step-*"):
        shutil.rmtree(half_written)
    if directory.is_dir() and not any(directory.iterdir()):
        directory.rmdir()
    folders = [artifacts.STATE, *(str(place(Path(directory.name), one.step)) for one in position.kept[1:])]
    return tuple(
        artifacts.KeptState(step=one.step, metric=metric, value=one.value, folder=folder)
        for one, folder in zip(position.kept, folders, strict=False)
    )
