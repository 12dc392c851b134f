"""Register the bundle and make it live, if the gate let it pass."""

from recsys_core.artifacts import Evaluation, Release
from recsys_core.gate import Decision
from recsys_core.retrieval import publish as stage
from tasks.perform import Candidate, Run, perform, stage_task


@stage_task("publish")
def publish(run: Run, candidate: Candidate, evaluation: Evaluation, decision: Decision) -> Release:
    """Return what became of the bundle; a second try finds what the first one registered."""
    request = run.request(
        stage.Request,
        "publish",
        config=run.config.publish,
        name=run.config.name,
        run_id=run.run_id,
        passed=decision.passed,
        reasons=decision.reasons,
        day=run.day,
        **dict(candidate),
        evaluation=evaluation,
        mask_seen=run.config.hitrate.mask_seen,
        run_root=run.config.run_root,
    )
    how = run.config.launch
    release = perform(run, "publish", Release, request, lambda asked, _: stage.run(asked, run.tracker, how))
    if (learned := candidate.checkpoint.learned) is not None:
        run.tracker.log_tags({"learned": learned.model_dump_json()})
    return release
