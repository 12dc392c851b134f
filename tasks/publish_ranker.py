"""Register the scorer and make it live, if the gate let it pass."""

from recsys_core.artifacts import RankingEvaluation, Release
from recsys_core.gate import Decision
from recsys_core.ranking import publish as stage
from tasks.perform import RankingCandidate, RankingRun, perform, stage_task
from tasks.score import HELD_OUT


@stage_task("publish")
def publish_ranker(
    run: RankingRun, candidate: RankingCandidate, evaluation: RankingEvaluation, decision: Decision
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
        data=candidate.data,
        split=HELD_OUT,
        checkpoint=candidate.checkpoint,
        model=candidate.model,
        predictions=candidate.scores,
        evaluation=evaluation,
        run_root=run.config.run_root,
    )
    how = run.config.launch
    release = perform(run, "publish", Release, request, lambda asked, _: stage.run(asked, run.tracker, how))
    if (learned := candidate.checkpoint.learned) is not None:
        run.tracker.log_tags({"learned": learned.model_dump_json()})
    return release
