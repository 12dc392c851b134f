"""Measure the scores of the held-out rows, next to the baselines and the live model."""

from recsys_core.artifacts import LabelledData, LabelledLog, Predictions, RankingEvaluation
from recsys_core.ranking import measure as stage
from tasks.perform import RankingRun, perform, stage_task


@stage_task("evaluate")
def measure(
    run: RankingRun, log: LabelledLog, data: LabelledData, scores: Predictions, champion: Predictions | None
) -> RankingEvaluation:
    """Return the day's measurements, of the exported model that is to be released."""
    request = run.request(
        stage.Request,
        "evaluate",
        ranking=run.config.ranking,
        log=log,
        data=data,
        holdout=run.config.holdout,
        predictions=scores,
        champion=champion,
        parts=run.config.gate.parts,
        metrics=run.config.evaluate.metrics,
        confidence=run.config.gate.confidence,
        task=run.config.gate.task,
    )
    return perform(run, "evaluate", RankingEvaluation, request, stage.run)


def loss(run: RankingRun, scores: Predictions) -> float:
    """Return the loss of the held-out rows by these scores."""
    return stage.loss(run.config.ranking, scores)
