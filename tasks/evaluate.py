"""Measure the checkpoint's loss on the next day's rows."""

from functools import partial

from recsys_core import launch
from recsys_core.artifacts import Checkpoint, HeldOut, TrainingData
from recsys_core.retrieval.requests import EvaluateRequest
from tasks.perform import Run, perform, stage_task


@stage_task("evaluate")
def evaluate(run: Run, data: TrainingData, checkpoint: Checkpoint, features: TrainingData | None = None) -> HeldOut:
    """Return the loss and recall among sampled negatives, on the ground truth of `data`.

    `features` is what the checkpoint was trained on, where that is not `data`.
    """
    config = run.config
    request = run.request(
        EvaluateRequest,
        "evaluate",
        config=config.evaluate,
        model=config.model,
        sampler=config.sampler,
        loss=config.loss,
        sharding=config.train.sharding,
        num_ranks=config.launch.world_size,
        seed=config.seed,
        data=data,
        checkpoint=checkpoint,
        features=features,
    )
    work = partial(launch.run, "evaluate", HeldOut, config=config.launch)
    return perform(run, "evaluate", HeldOut, request, work)
