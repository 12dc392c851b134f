"""What MLflow is told of a day's run: one parent run per `run_id`, one child per stage.

A run that is started again (a rerun, a retry) goes on filling the same MLflow runs, found by their tags.
"""

import contextlib
import datetime
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import psutil

from recsys_core.artifacts import Dataset, Frozen, TrainingData
from recsys_core.progress import Event
from recsys_core.redaction import redact
from recsys_core.tracking import records
from recsys_core.tracking.store import Config, check, connect, impatient, location

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow import MlflowClient

__all__ = ["Config", "Identity", "Run", "Tracker", "check", "connect", "location", "open_run", "redact"]

_RUN_ID_TAG, _STAGE_TAG, _PARENT_TAG = "dayline.run_id", "dayline.stage", "mlflow.parentRunId"
_HOST_TAG, _PROCESS_TAG = "dayline.host", "dayline.process"
R = TypeVar("R", bound="Run")
_MAX_METRICS, _MAX_PARAMS = 1_000, 100  # of one call


class Identity(Frozen):
    """Which run it is: `name` is the config's; `flow_run_id` and `deployment` are Prefect's, if it runs the flow."""

    name: str
    day: datetime.date
    run_id: str
    config_hash: str
    code_version: str
    flow_run_id: str | None = None
    deployment: str | None = None


class Run:
    """One MLflow run that is being filled. Points of curves are kept back for `flush_seconds` and sent together."""

    def __init__(self, client: "MlflowClient", mlflow_run_id: str, flush_seconds: float) -> None:
        """`mlflow_run_id` is a run that exists."""
        self.client, self.mlflow_run_id = client, mlflow_run_id
        self._flush_seconds = flush_seconds
        self._waiting: list[Any] = []
        self._flushed = time.monotonic()
        self._lock = threading.Lock()

    def sink(self, event: Event) -> None:
        """Listen to a stage: its metrics become points of curves."""
        self.log_metrics(event.metrics, event.step)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Keep `metrics` for the next flush; without a `step` they are final values."""
        from mlflow.entities import Metric

        now = round(time.time() * 1000)
        points = [Metric(records.name_of(name), value, now, step or 0) for name, value in metrics.items()]
        with self._lock:
            self._waiting += points
            due = time.monotonic() - self._flushed >= self._flush_seconds
        if due:
            self.flush()

    def flush(self) -> None:
        """Send what was kept back."""
        with self._lock:
            waiting, self._waiting = self._waiting, []
            self._flushed = time.monotonic()
        for start in range(0, len(waiting), _MAX_METRICS):
            self.client.log_batch(self.mlflow_run_id, metrics=waiting[start : start + _MAX_METRICS])

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Record nested JSON values by dotted key. MLflow's params are for good: those that are there stay."""
        from mlflow.entities import Param

        known = self.client.get_run(self.mlflow_run_id).data.params
        new = [Param(key, value) for key, value in records.params(params).items() if key not in known]
        for start in range(0, len(new), _MAX_PARAMS):
            self.client.log_batch(self.mlflow_run_id, params=new[start : start + _MAX_PARAMS])

    def log_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags, or change them."""
        from mlflow.entities import RunTag

        self.client.log_batch(self.mlflow_run_id, tags=[RunTag(key, redact(value)) for key, value in tags.items()])

    def log_figure(self, figure: "Figure", name: str) -> None:
        """Store a picture as `plots/<name>.png`."""
        self.client.log_figure(self.mlflow_run_id, figure, f"plots/{name}.png", save_kwargs={"dpi": 120})

    def log_file(self, path: Path) -> None:
        """Store a file of text under its own name."""
        self.client.log_artifact(self.mlflow_run_id, str(path))

    def log_dataset(self, dataset: Dataset | TrainingData, source: str) -> None:
        """Record what the run was made from; `source` is where that came from."""
        self.client.log_inputs(self.mlflow_run_id, datasets=[records.dataset_input(dataset, source)])

    def end(self, error: BaseException | None, patience_seconds: float) -> None:
        """Send what is left and set the status: FINISHED, FAILED, or KILLED (an error that is no `Exception`).

        On an error MLflow is asked once: it may be the one that failed, and must not hide or delay the message.
        """
        from mlflow.exceptions import MlflowException

        if error is None:
            self.flush()
            self.client.set_terminated(self.mlflow_run_id, "FINISHED")
            return
        try:
            with impatient(patience_seconds):
                self.flush()
                self.client.set_terminated(self.mlflow_run_id, "FAILED" if isinstance(error, Exception) else "KILLED")
        except MlflowException as lost:
            error.add_note(f"MLflow was not told that run {self.mlflow_run_id} ended: {redact(str(lost))[:200]}")


class Tracker(Run):
    """The parent run of a day."""

    def __init__(self, client: "MlflowClient", experiment_id: str, config: Config) -> None:
        """`open_run` makes it."""
        super().__init__(client, "", config.flush_seconds)
        self.uri: str = client.tracking_uri
        self.experiment_id = experiment_id
        self._config = config

    @property
    def url(self) -> str | None:
        """The run's page; None without a server."""
        if not self.uri.startswith("http"):
            return None
        page = f"{self.uri.rstrip('/')}/#/experiments/{self.experiment_id}/runs/{self.mlflow_run_id}"
        # Else MLflow opens among its tools for language models.
        return page + "?workflowType=machine_learning"

    def begin(self, identity: Identity) -> bool:
        """Start the run, or take up the one that has this `run_id`, and say which (True: taken up)."""
        tags = {_RUN_ID_TAG: identity.run_id}
        self.mlflow_run_id, resumed = self._open(tags, f"{identity.day} {identity.run_id[:6]}")
        return resumed

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[Run]:
        """Open a stage's child run.

        What its sink hears also becomes `<stage>/<metric>` of the parent, by which days are compared.
        """
        tags = {_PARENT_TAG: self.mlflow_run_id, _STAGE_TAG: name}
        with _lasting(_Stage(self, self._open(tags, name)[0], self._config), self._config) as stage:
            yield stage

    def _open(self, tags: dict[str, str], name: str) -> tuple[str, bool]:
        """Return the run that has these tags, and whether it was there before."""
        condition = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        if found := self.client.search_runs([self.experiment_id], condition, max_results=1):
            self.client.update_run(found[0].info.run_id, status="RUNNING")
            return found[0].info.run_id, True
        return self.client.create_run(self.experiment_id, tags=tags, run_name=name).info.run_id, False


class _Stage(Run):
    def __init__(self, parent: Tracker, mlflow_run_id: str, config: Config) -> None:
        super().__init__(parent.client, mlflow_run_id, config.flush_seconds)
        self._parent = parent

    def sink(self, event: Event) -> None:
        super().sink(event)
        self._parent.log_metrics({f"{event.stage}/{name}": value for name, value in event.metrics.items()}, event.step)


@contextlib.contextmanager
def open_run(config: Config, run_root: Path, identity: Identity, params: Mapping[str, Any]) -> Iterator[Tracker]:
    """Open a day's parent run; whatever ends the block sets its status: FINISHED, FAILED or KILLED.

    `params` is the whole config as JSON values.
    """
    client = connect(location(config, run_root))
    # Without a server there is nobody but us to say where the artifacts go.
    artifacts = None if config.uri else (run_root.resolve() / "mlartifacts").as_uri()
    experiment_id = _experiment(client, config.experiment or identity.name, artifacts)
    _end_orphans(client, experiment_id)
    tracker = Tracker(client, experiment_id, config)
    resumed = tracker.begin(identity)
    with _lasting(tracker, config), _system_metrics(tracker, config, resumed=resumed):
        tracker.log_tags(_describe(identity))
        tracker.log_params(params)
        yield tracker


@contextlib.contextmanager
def _lasting(run: R, config: Config) -> Iterator[R]:
    try:
        yield run
    except BaseException as error:
        run.end(error, config.check_seconds)
        raise
    run.end(None, config.check_seconds)


@contextlib.contextmanager
def _system_metrics(tracker: Tracker, config: Config, *, resumed: bool) -> Iterator[None]:
    if not config.system_metrics:
        yield
        return
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    interval = config.system_metrics_interval_seconds
    monitor = SystemMetricsMonitor(
        tracker.mlflow_run_id, sampling_interval=interval, resume_logging=resumed, tracking_uri=tracker.uri
    )
    monitor.start()
    try:
        yield
    finally:
        with impatient(config.check_seconds):
            monitor.finish()


def _experiment(client: "MlflowClient", name: str, artifacts: str | None) -> str:
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            return client.create_experiment(name, artifact_location=artifacts)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        # Another process made it in between.
        experiment = client.get_experiment_by_name(name)
        assert experiment is not None
    if experiment.lifecycle_stage == "deleted":
        raise ValueError(
            f"tracking.experiment {name}: it was deleted in MLflow; restore it with `mlflow experiments restore "
            f"--experiment-id {experiment.experiment_id}`, or choose another name"
        )
    return experiment.experiment_id


def _describe(identity: Identity) -> dict[str, str]:
    tags = {
        "day": str(identity.day),
        "config_hash": identity.config_hash,
        "code_version": identity.code_version,
        "prefect.flow_run_id": identity.flow_run_id,
        "prefect.deployment": identity.deployment,
        "mlflow.source.name": "dayline",
        _HOST_TAG: socket.gethostname(),
        _PROCESS_TAG: _process(os.getpid()),
    }
    return {key: value for key, value in tags.items() if value is not None} | records.revision()


def _end_orphans(client: "MlflowClient", experiment_id: str) -> None:
    """Set the status of this machine's runs whose process died without a chance to."""
    running = f"attributes.status = 'RUNNING' and tags.`{_HOST_TAG}` = '{socket.gethostname()}'"
    for run in client.search_runs([experiment_id], running):
        process = run.data.tags[_PROCESS_TAG]
        if _process(int(process.partition(":")[0])) == process:
            continue
        below = f"attributes.status = 'RUNNING' and tags.`{_PARENT_TAG}` = '{run.info.run_id}'"
        for orphan in [*client.search_runs([experiment_id], below), run]:
            client.set_terminated(orphan.info.run_id, "KILLED")


def _process(pid: int) -> str | None:
    """Return what tells the process from later ones with the same number; None if there is none."""
    try:
        return f"{pid}:{psutil.Process(pid).create_time():.2f}"
    except psutil.NoSuchProcess:
        return None
