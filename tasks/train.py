"""Train the towers on all ranks, from the base release's state or from random weights."""

from functools import partial

from recsys_core import launch
from recsys_core.artifacts import Checkpoint, TrainingData
from recsys_core.progress import Event
from recsys_core.retrieval.requests import TrainRequest
from tasks.perform import Run, StageResult, listener, perform, stage_task


@stage_task("train")
def train(run: Run, data: TrainingData) -> Checkpoint:
    """Return the trained state; a second try goes on from the last checkpoint of the first.

    Where the base has learned from all rows already, it is returned as it is.
    """
    config = run.config
    if not data.num_rows:
        return _as_it_is(run)
    request = run.request(
        TrainRequest,
        "train",
        config=config.train,
        model=config.model,
        sampler=config.sampler,
        loss=config.loss,
        num_ranks=config.launch.world_size,
        seed=config.seed,
        data=data,
        base=run.base.checkpoint if run.base else None,
        base_engine=run.base.engine if run.base else None,
        pretrained=run.pretrained,
    )
    work = partial(launch.run, "train", Checkpoint, config=config.launch)
    checkpoint = perform(run, "train", Checkpoint, request, work)
    run.tracker.log_file(checkpoint.plan)
    if checkpoint.carried.is_file():
        run.tracker.log_file(checkpoint.carried)
    tables = f"{run.prefix}train/tables"
    run.tracker.log_metrics({f"{tables}/{table}/touched": share for table, share in checkpoint.touched.items()})
    return checkpoint


def _as_it_is(run: Run) -> Checkpoint:
    base = run.base
    assert base is not None, "only a run that continues a release can be without rows"
    run.made("train", base.checkpoint, StageResult(seconds=0, rows=0, cached=True))
    message = f"version {base.version} has absorbed all rows up to {base.learned.last_day}; it is measured as it is"
    listener()(Event(stage="train", message=message))
    return base.checkpoint
