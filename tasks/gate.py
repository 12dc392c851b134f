"""Decide whether the new model may replace the live one."""

from prefect import task
from prefect.cache_policies import NO_CACHE

from recsys_core import gate as rules
from recsys_core.artifacts import Evaluation
from recsys_core.gate import Decision
from tasks.perform import Run


@task(task_run_name="gate {run.config.name} {run.day}", cache_policy=NO_CACHE, result_serializer="json")
def gate(run: Run, evaluation: Evaluation) -> Decision:
    """Return the decision; a model that is turned down is a finished run, not a failed one."""
    decision = rules.decide(run.config.gate, evaluation)
    run.tracker.log_tags(
        {"gate": "passed" if decision.passed else "rejected", "gate.reasons": " ".join(decision.reasons)}
    )
    return decision
