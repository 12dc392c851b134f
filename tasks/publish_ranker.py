"""Register the scorer and make it live, if the gate let it pass."""

from recsys_core.artifacts import Checkpoint, ExportedRanker, LabelledData, Predictions, RankingEvaluation, Release
from recsys_core.gate import Decision
from recsys_core.ranking import publish as stage
from tasks.perform import RankingRun, perform, stage_task
from tasks.score import HELD_OUT


@stage_task("publish")
def publish_ranker(
    run: RankingRun,
    data: LabelledData,
    checkpoint: Checkpoint,
    model: ExportedRanker,
    scores: Predictions,
    evaluation: RankingEvaluation,
    decision: Decision,
) -> Release:
    """Return what became of the bundle; a second try finds what the first one registered."""
    request = run.request(
        stage.Request,
        "publish",
        config=run.config.publish,
        name=run.config.name,
        run_id=run.run_id,
        day=run.day,
        passed=decision.passed,
        reasons=decision.reasons,
        data=data,
        split=HELD_OUT,
        checkpoint=checkpoint,
        model=model,
        predictions=scores,
        evaluation=evaluation,
        run_root=run.config.run_root,
    )
    return perform(run, "publish", Release, request, lambda asked, _: stage.run(asked, run.tracker))
