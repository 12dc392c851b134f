"""Write down what a ranking model's day came to: for the command that asked, and for MLflow."""

from prefect import task
from prefect.cache_policies import NO_CACHE
from pydantic import Field

from recsys_core.artifacts import (
    Checkpoint,
    DataCheck,
    Difference,
    Holdout,
    LabelledData,
    LabelledMetrics,
    LabelledSlice,
    Learned,
    RankingEvaluation,
    Release,
)
from recsys_core.gate import Decision
from recsys_core.tracking import records
from tasks.absorbed import Absorbed
from tasks.perform import RankingCandidate, RankingRun
from tasks.report import AnyDay, write


class RankingMetrics(LabelledMetrics):
    """What was measured of the held-out rows, with the live model and the baselines on the same ones.

    Of several tasks it is that of `gate.task` (null: the first), and `tasks` has each one's.
    `differences` are those to the champion. `num_examples` rows were learned from, in `num_steps` steps.
    """

    tasks: dict[str, LabelledMetrics | None] = Field(default={})
    champion: LabelledMetrics | None
    baselines: dict[str, LabelledMetrics]
    differences: dict[str, Difference]
    slices: dict[str, LabelledSlice]
    num_examples: int
    num_steps: int
    examples_per_second: float
    loss: float


class RankingDay(AnyDay[RankingMetrics]):
    """A ranking model's day, measured on what `holdout` says, by a state that has learned from what `learned` says."""

    holdout: Holdout
    learned: Learned


@task(task_run_name="report {run.config.name} {run.day}", cache_policy=NO_CACHE, result_serializer="json")
def report_ranking_day(
    run: RankingRun,
    check: DataCheck,
    candidate: RankingCandidate,
    evaluation: RankingEvaluation,
    decision: Decision,
    absorbed: Absorbed | None,
    release: Release,
) -> RankingDay:
    """Return the result; it is in `result.json` of the run's directory too, and its figures and plots in MLflow."""
    data, checkpoint = candidate.data, candidate.checkpoint
    metrics = RankingMetrics(
        **evaluation.metrics.model_dump(),
        tasks=evaluation.tasks,
        champion=evaluation.champion,
        baselines=evaluation.baselines,
        differences=evaluation.differences,
        slices=evaluation.slices,
        num_examples=data.num_rows,
        num_steps=checkpoint.num_steps,
        examples_per_second=checkpoint.examples_per_second,
        loss=checkpoint.loss,
    )
    assert checkpoint.learned is not None, "a day's training says what it has learned from"
    fields = {"holdout": run.config.holdout, "learned": checkpoint.learned, "absorbed": absorbed}
    result = RankingDay.of(run, check, decision, release, metrics=metrics, **fields)
    write(run, result, lambda: _track(run, data, checkpoint, evaluation))
    return result


def _track(run: RankingRun, data: LabelledData, checkpoint: Checkpoint, evaluation: RankingEvaluation) -> None:
    """Put the figures by which days are compared, and the pictures, on the day's MLflow run."""
    # Only where something is drawn: it takes most of a second to import.
    from recsys_core import plots

    run.tracker.log_metrics(records.ranking_metrics(data, checkpoint, evaluation))
    if checkpoint.num_steps:
        run.tracker.log_figure(plots.loss_curve(checkpoint, run.config.loss.kind.replace("_", " ")), "loss")
    if evaluation.differences:
        run.tracker.log_figure(plots.differences(evaluation, run.config.gate.metric), "difference")
    if evaluation.metrics.logloss is not None:
        run.tracker.log_figure(plots.roc(evaluation), "roc")
    run.tracker.log_figure(plots.calibration(evaluation), "calibration")
