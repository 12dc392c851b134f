"""Write down what a ranking run came to: for the command that asked, for MLflow, and for readers of tomorrow."""

import datetime
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE
from pydantic import Field

from recsys_core.artifacts import (
    Checkpoint,
    Frozen,
    LabelledData,
    LabelledMetrics,
    Predictions,
    RankingEvaluation,
    write_text,
)
from recsys_core.tracking import records
from tasks.perform import RankingRun, StageResult
from tasks.report import RESULT


class RankingResult(Frozen):
    """A ranking run, as `dayline run --json` prints it; `metrics` are of every row of `split`.

    Of several tasks they are the first one's, and `tasks` has each one's.
    """

    run_id: str
    mlflow_run_id: str
    day: datetime.date
    split: str
    metrics: LabelledMetrics
    tasks: dict[str, LabelledMetrics | None] = Field(default={})
    num_examples: int
    num_steps: int
    examples_per_second: float
    loss: float
    predictions: Path
    stages: dict[str, StageResult]
    artifacts: dict[str, Path]


@task(task_run_name="report {run.config.name} {run.day}", cache_policy=NO_CACHE, result_serializer="json")
def report_ranking(
    run: RankingRun,
    data: LabelledData,
    checkpoint: Checkpoint,
    evaluation: RankingEvaluation,
    predictions: Predictions,
) -> RankingResult:
    """Return the result; it is in `result.json` of the run's directory too, and its figures and plots in MLflow."""
    result = RankingResult(
        run_id=run.run_id,
        mlflow_run_id=run.tracker.mlflow_run_id,
        day=run.day,
        split=evaluation.split,
        metrics=evaluation.metrics,
        tasks=evaluation.tasks,
        num_examples=data.num_rows,
        num_steps=checkpoint.num_steps,
        examples_per_second=checkpoint.examples_per_second,
        loss=checkpoint.loss,
        predictions=predictions.rows,
        stages=run.stages,
        artifacts={stage: artifact.path for stage, artifact in run.artifacts.items()},
    )
    written = run.directory / RESULT
    if not written.exists() or not all(stage.cached for stage in run.stages.values()):
        # Only where something is drawn: it takes most of a second to import.
        from recsys_core import plots

        run.tracker.log_metrics(records.ranking_metrics(data, checkpoint, evaluation))
        run.tracker.log_figure(plots.loss_curve(checkpoint, run.config.loss.kind.replace("_", " ")), "loss")
        if evaluation.metrics.logloss is not None:
            run.tracker.log_figure(plots.roc(evaluation), "roc")
        run.tracker.log_figure(plots.calibration(evaluation), "calibration")
    write_text(written, result.model_dump_json(indent=2))
    return result
