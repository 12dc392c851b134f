"""Train a ranking model on all ranks, from the base release's state or from random weights."""

from functools import partial

from recsys_core import launch
from recsys_core.artifacts import Checkpoint, LabelledData
from recsys_core.ranking.requests import TrainRequest
from tasks.perform import RankingRun, perform, stage_task


@stage_task("train")
def train_ranker(run: RankingRun, data: LabelledData) -> Checkpoint:
    """Return the trained state, the best one if the training is evaluated; a second try goes on from the first's."""
    config = run.config
    request = run.request(
        TrainRequest,
        "train",
        config=config.train,
        ranking=config.ranking,
        model=config.model,
        loss=config.loss,
        num_ranks=config.launch.world_size,
        seed=config.seed,
        day=run.day,
        data=data,
        base=run.base.checkpoint if run.base else None,
        base_engine=run.base.engine if run.base else None,
        pretrained=run.pretrained,
    )
    work = partial(launch.run, "rank_train", Checkpoint, config=config.launch)
    checkpoint = perform(run, "train", Checkpoint, request, work)
    run.tracker.log_file(checkpoint.plan)
    if checkpoint.carried.is_file():
        run.tracker.log_file(checkpoint.carried)
    run.tracker.log_metrics({f"train/tables/{table}/touched": share for table, share in checkpoint.touched.items()})
    return checkpoint
