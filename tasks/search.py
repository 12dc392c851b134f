"""The run of a search: the parent of its trials in MLflow, with the folder that keeps what was tried."""

import contextlib
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

from prefect.runtime import deployment, flow_run

from recsys_core import tracking
from recsys_core.artifacts import Frozen, code_version
from recsys_core.config import RankingConfig, RunConfig
from recsys_core.tracking import Tracker
from tasks.perform import AnyRun, listener
from tasks.start_run import locked

_PARENT = "mlflow.parentRunId"


class TrialResult(Frozen):
    """One trial: the values that it tried, by key, and what came of it: `state` is complete, pruned or refused.

    `value` is the metric that is searched by; of a pruned trial the last that was measured. `refused` says what was
    wrong with values that do not go together.
    """

    number: int
    state: str
    value: float | None
    params: dict[str, Any]
    run_id: str | None = None
    mlflow_run_id: str | None = None
    seconds: float | None = None
    refused: str | None = None


class SearchResult(Frozen):
    """All trials, the best of them, and the file that has the best one's whole config.

    `importances` are the shares of the metric's variation that keys explain, by key; of few trials there are none.
    """

    name: str
    metric: str
    direction: str
    mlflow_run_id: str
    best: TrialResult
    trials: tuple[TrialResult, ...]
    importances: dict[str, float]
    config: Path


class Search(NamedTuple):
    """A search that runs: its folder, and its run in MLflow."""

    directory: Path
    tracker: Tracker


@contextlib.contextmanager
def begun(config: RunConfig | RankingConfig, day: date, search_id: str, params: dict[str, Any]) -> Iterator[Search]:
    """Hold the search's folder, and its MLflow run open.

    Raises:
        ValueError: another process is at this very search.
    """
    identity = tracking.Identity(
        name=config.name,
        day=day,
        run_id=search_id,
        config_hash=config.hash,
        code_version=code_version(),
        flow_run_id=flow_run.id,
        deployment=deployment.name,
    )
    directory = config.run_root / identity.directory
    opened = tracking.open_run(config.tracking, config.run_root, identity, params, listener())
    with locked(directory), opened as tracker:
        tracker.log_tags({"kind": "search"})
        yield Search(directory, tracker)


def adopt(run: AnyRun[Any], parent: Tracker, number: int) -> None:
    """Make a run one of the trials of a search."""
    run.tracker.log_tags({_PARENT: parent.mlflow_run_id, "trial": str(number)})
