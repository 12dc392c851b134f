"""Decide whether the new model may replace the live one."""

from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from recsys_core import gate as rules
from recsys_core.artifacts import Evaluation, RankingEvaluation, ReplayedLog
from recsys_core.gate import Decision
from tasks.perform import AnyRun


@task(task_run_name="gate {run.config.name} {run.day}", cache_policy=NO_CACHE, result_serializer="json")
def gate(run: AnyRun[Any], evaluation: Evaluation | RankingEvaluation, replayed: ReplayedLog | None = None) -> Decision:
    """Return the decision; a model that is turned down is a finished run, not a failed one."""
    decision = rules.decide(run.config.gate, evaluation, replayed)
    if replayed is not None:
        run.tracker.log_metrics(rules.replay.metrics(replayed))
    run.tracker.log_tags(
        {"gate": "passed" if decision.passed else "rejected", "gate.reasons": " ".join(decision.reasons)}
    )
    return decision
