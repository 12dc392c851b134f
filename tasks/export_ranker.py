"""Script a ranking model, and prove that it computes what was trained."""

from functools import partial

from recsys_core import launch
from recsys_core.artifacts import Checkpoint, ExportedRanker, LabelledData
from recsys_core.ranking.requests import ExportRequest
from tasks.perform import RankingRun, perform, stage_task


@stage_task("export")
def export_ranker(run: RankingRun, data: LabelledData, checkpoint: Checkpoint) -> ExportedRanker:
    """Return the scripted module with the fitted features."""
    config = run.config
    request = run.request(
        ExportRequest,
        "export",
        config=config.export,
        ranking=config.ranking,
        predicts=config.ranking.outputs,
        model=config.model,
        data=data,
        checkpoint=checkpoint.at(config.use_step),
    )
    work = partial(launch.run, "rank_export", ExportedRanker, config=launch.alone(config.launch))
    return perform(run, "export", ExportedRanker, request, work)
