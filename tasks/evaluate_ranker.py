"""Measure a ranking model on rows that it was not trained on."""

from functools import partial

from recsys_core import launch
from recsys_core.artifacts import Checkpoint, LabelledData, RankingEvaluation
from recsys_core.ranking.requests import EvaluateRequest
from tasks.perform import RankingRun, perform, stage_task


@stage_task("evaluate")
def evaluate_ranker(run: RankingRun, data: LabelledData, checkpoint: Checkpoint) -> RankingEvaluation:
    """Return the exact metrics of every row of the split."""
    config = run.config
    request = run.request(
        EvaluateRequest,
        "evaluate",
        config=config.evaluate,
        ranking=config.ranking,
        model=config.model,
        sharding=config.train.sharding,
        num_ranks=config.launch.world_size,
        seed=config.seed,
        data=data,
        checkpoint=checkpoint.at(config.use_step),
    )
    work = partial(launch.run, "rank_evaluate", RankingEvaluation, config=config.launch)
    return perform(run, "evaluate", RankingEvaluation, request, work)
