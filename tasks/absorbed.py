"""Decide whether a state that has learned from the rows it was measured on is released in place of the measured one."""

import math
from datetime import date
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from recsys_core.artifacts import Checkpoint, Frozen, LabelledData, TrainingData
from recsys_core.progress import Event
from tasks.perform import AnyRun, listener


class Absorbed(Frozen):
    """What came of learning from the measured rows, those of `day`; `refused` says why that state is not released.

    `loss` is the training's, `held_out_loss` that of the measured rows afterwards.
    """

    day: date
    num_examples: int
    loss: float
    held_out_loss: float
    refused: str | None = None


@task(task_run_name="absorbed {run.config.name} {run.day}", cache_policy=NO_CACHE, result_serializer="json")
def absorbed(
    run: AnyRun[Any], data: TrainingData | LabelledData, checkpoint: Checkpoint, before: float, after: float
) -> Absorbed:
    """Compare the loss on the measured rows before and after; it must not have risen."""
    assert checkpoint.learned is not None, "this run's state says what it has learned from"
    refused, day = None, checkpoint.learned.last_day
    if after > before and not math.isclose(after, before):
        refused = (
            f"not absorbed: the loss on the measured rows of {day} was {before:.4f} and is {after:.4f} after "
            "learning from them; what was measured is released. Lower the learning rates of train"
        )
        listener()(Event(stage="absorb", message=f"warning: {refused}"))
    figures = {"num_examples": data.num_rows, "loss": checkpoint.loss, "held_out_loss": after}
    run.tracker.log_metrics({f"absorb/{name}": value for name, value in figures.items()})
    run.tracker.log_tags({"absorbed": refused or str(day)})
    return Absorbed(day=day, refused=refused, **figures)
