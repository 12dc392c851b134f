"""Write down what a day's run came to: for the command that asked, for MLflow, and for readers of tomorrow."""

import datetime
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

from prefect import task
from prefect.cache_policies import NO_CACHE

from recsys_core.artifacts import DataCheck, Evaluation, Frozen, HeldOut, Release, RetrievalMetrics, write_text
from recsys_core.contract import report as contract
from recsys_core.gate import Decision
from recsys_core.tracking import records
from tasks.absorbed import Absorbed
from tasks.perform import AnyRun, Candidate, Run, StageResult

RESULT = "result.json"


class Baselines(Frozen):
    """Hit rate by K of what costs nothing to train; all but `popularity` are null where there is no log."""

    popularity: dict[str, float]
    recent_popularity: dict[str, float] | None = None
    item_item: dict[str, float] | None
    markov: dict[str, float] | None = None
    ease: dict[str, float] | None = None

    @property
    def of_log(self) -> dict[str, dict[str, float] | None]:
        """Those that learn from the log, by what tables call them."""
        found = {"recent popularity": self.recent_popularity, "item-item": self.item_item, "Markov": self.markov}
        return found if self.ease is None else found | {"EASE": self.ease}


class Metrics(Frozen):
    """What was measured, by exact search where not said otherwise; by K where there is one."""

    hit_rate: dict[str, float]
    recall: dict[str, float]
    ndcg: dict[str, float]
    mrr: dict[str, float]
    coverage: dict[str, float]
    ann_recall: dict[str, float]
    approximate_hit_rate: dict[str, float]
    champion_hit_rate: dict[str, float] | None
    baselines: Baselines
    num_examples: int
    examples_per_second: float
    loss: float
    held_out_loss: float


F = TypeVar("F", bound=Frozen)


class AnyDay(Frozen, Generic[F]):
    """One day's run, as `dayline run --json` prints it.

    `metrics` are of the state that was measured; `absorbed` says what it has learned from afterwards, if anything.
    `release` is the version that was registered, if any, and `decision` says if it is live; see `publish`.
    `data_warnings` are the checks of the data contract that did not hold.
    """

    run_id: str
    mlflow_run_id: str
    day: datetime.date
    release: str | None
    decision: str
    gate: Decision
    data_warnings: tuple[str, ...] = ()
    metrics: F
    absorbed: Absorbed | None = None
    stages: dict[str, StageResult]
    artifacts: dict[str, Path]

    @classmethod
    def of(cls, run: AnyRun[Any], check: DataCheck, decision: Decision, release: Release, **fields: Any) -> Self:
        """Put together what every product's day came to, and `fields`."""
        return cls(
            run_id=run.run_id,
            mlflow_run_id=run.tracker.mlflow_run_id,
            day=run.day,
            release=release.version,
            decision=release.decision,
            gate=decision,
            data_warnings=tuple(contract.sentences(check)),
            stages=run.stages,
            artifacts={stage: artifact.path for stage, artifact in run.artifacts.items()},
            **fields,
        )


class DayResult(AnyDay[Metrics]):
    """A retrieval model's day."""


def write(run: AnyRun[Any], result: AnyDay[Any], track: Callable[[], None]) -> None:
    """Write the result to `result.json` of the run's directory, once `track` has put its figures into MLflow.

    A run in which all was done before, and tracked, is not tracked again.
    """
    written = run.directory / RESULT
    if not written.exists() or not all(stage.cached for stage in run.stages.values()):
        track()
        run.tracker.log_tags({"decision": result.decision, "release": result.release or "none"})
    write_text(written, result.model_dump_json(indent=2))


@task(task_run_name="report {run.config.name} {run.day}", cache_policy=NO_CACHE, result_serializer="json")
def report(
    run: Run,
    check: DataCheck,
    candidate: Candidate,
    held_out: HeldOut,
    evaluation: Evaluation,
    decision: Decision,
    absorbed: Absorbed | None,
    release: Release,
) -> DayResult:
    """Return the result; it is in `result.json` of the run's directory too, and its figures and plots in MLflow."""
    metrics = Metrics(
        **evaluation.exact.model_dump(),
        ann_recall=evaluation.ann_recall,
        approximate_hit_rate=evaluation.approximate.hit_rate,
        champion_hit_rate=evaluation.champion.hit_rate if evaluation.champion else None,
        baselines=Baselines(
            popularity=evaluation.popularity.hit_rate,
            recent_popularity=_hit_rate(evaluation.recent_popularity),
            item_item=_hit_rate(evaluation.item_item),
            markov=_hit_rate(evaluation.markov),
            ease=_hit_rate(evaluation.ease),
        ),
        num_examples=candidate.data.num_rows,
        examples_per_second=candidate.checkpoint.examples_per_second,
        loss=candidate.checkpoint.loss,
        held_out_loss=held_out.loss,
    )
    result = DayResult.of(run, check, decision, release, metrics=metrics, absorbed=absorbed)
    write(run, result, lambda: _track(run, candidate, held_out, evaluation))
    return result


def _track(run: Run, candidate: Candidate, held_out: HeldOut, evaluation: Evaluation) -> None:
    """Put the figures by which days are compared, and the pictures, on the day's MLflow run."""
    # Only where something is drawn: it takes most of a second to import.
    from recsys_core import plots

    run.tracker.log_metrics(records.metrics(candidate.data, candidate.checkpoint, held_out, evaluation))
    run.tracker.log_figure(plots.loss_curve(candidate.checkpoint, run.config.loss.kind.replace("_", " ")), "loss")
    run.tracker.log_figure(plots.hit_rate_by_k(evaluation), "hit_rate_by_k")
    run.tracker.log_figure(plots.hit_rate_by_popularity(evaluation), "hit_rate_by_popularity")
    if evaluation.differences:
        gated = run.config.gate
        run.tracker.log_figure(plots.differences(evaluation, f"{gated.metric}@{gated.k}"), "difference")
    parameter = json.loads((evaluation.path / "sweep.json").read_text())["parameter"]
    if evaluation.ann_recall_by_nprobe:
        run.tracker.log_figure(plots.ann_recall(evaluation, parameter), "ann_recall")


def _hit_rate(found: RetrievalMetrics | None) -> dict[str, float] | None:
    return None if found is None else found.hit_rate
