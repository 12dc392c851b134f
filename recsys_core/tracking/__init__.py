"""What MLflow records of a day's run: one parent run per `run_id`, one child per stage.

A run that is started again (a rerun, a retry) goes on filling the same MLflow runs, found by their tags. A server that
goes away meanwhile holds up nothing but publishing: see `spool`.
"""

import contextlib
import datetime
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recsys_core import liveness
from recsys_core.artifacts import Dataset, Frozen, LabelledData, LabelledLog, TrainingData
from recsys_core.progress import Event, Sink, silent
from recsys_core.redaction import redact
from recsys_core.tracking import records
from recsys_core.tracking.spool import PARENT_TAG, SPOOL, AwayError, Does, Entry, Outbox, find, server_of
from recsys_core.tracking.store import (
    Config,
    check,
    connect,
    database,
    errors,
    import_client,
    is_away,
    location,
    reason,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow import MlflowClient

__all__ = [
    "LOCK",
    "AwayError",
    "Config",
    "Identity",
    "Run",
    "Tracker",
    "check",
    "connect",
    "database",
    "errors",
    "import_client",
    "is_away",
    "location",
    "open_run",
    "reason",
]

_RUN_ID_TAG = "dayline.run_id"
_DIRECTORY_TAG = "dayline.directory"
LOCK = "lock"  # in a run's directory, held by the process that is at it


class Identity(Frozen):
    """Which run it is: `name` is the config's; `flow_run_id` and `deployment` are Prefect's, if it runs the flow."""

    name: str
    day: datetime.date
    run_id: str
    config_hash: str
    code_version: str
    flow_run_id: str | None = None
    deployment: str | None = None

    @property
    def directory(self) -> str:
        """The run's directory, below run_root."""
        return f"{self.name}/{self.day}/{self.run_id}"


class Run:
    """One MLflow run that is being filled. Points of curves are kept back for `flush_seconds` and sent together."""

    def __init__(
        self, client: "MlflowClient", outbox: Outbox, experiment_id: str, parent: str, stage: str | None, config: Config
    ) -> None:
        """`parent` is the day's MLflow run, which exists; `stage` is None for that run itself."""
        self.client, self.experiment_id, self._uri = client, experiment_id, client.tracking_uri
        self._outbox, self._parent_id, self._stage, self._config = outbox, parent, stage, config
        self._waiting: list[tuple[str, float, int, int]] = []
        self._last_tags: dict[str, str] = {}
        self._flushed = time.monotonic()
        self._lock = threading.Lock()

    @property
    def mlflow_run_id(self) -> str:
        """MLflow's id; empty for a stage that began while the server was away."""
        return self._outbox.run_id(self._parent_id, self._stage)

    def sink(self, event: Event) -> None:
        """Listen to a stage: its metrics become points of curves."""
        self.log_metrics(event.metrics, event.step)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Keep `metrics` for the next flush; without a `step` they are final values."""
        self.keep_metrics(metrics, step or 0)
        if time.monotonic() - self._flushed >= self._config.flush_seconds:
            self.flush()

    def keep_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Keep `metrics` for a flush of another thread: MLflow is asked by one."""
        now = _now()
        with self._lock:
            self._waiting += [(records.name_of(name), value, now, step) for name, value in metrics.items()]

    def flush(self) -> None:
        """Send what was kept back."""
        if waiting := self._take():
            self._send("metrics", metrics=waiting)

    def _take(self) -> tuple[tuple[str, float, int, int], ...]:
        with self._lock:
            waiting, self._waiting = self._waiting, []
            self._flushed = time.monotonic()
        return tuple(waiting)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Record nested JSON values by dotted key. MLflow's params are for good: those that are there stay."""
        self._send("params", params=records.params(params))

    def log_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags, or change them."""
        self._send("tags", tags=_shown(tags))

    def tag_at_end(self, tags: Mapping[str, str]) -> None:
        """Set tags as the run ends, in the same call."""
        self._last_tags |= _shown(tags)

    def log_figure(self, figure: "Figure", name: str) -> None:
        """Store a picture as `plots/<name>.png`."""
        with tempfile.TemporaryDirectory() as directory:
            picture = Path(directory, f"{name}.png")
            figure.savefig(picture, dpi=120)
            self._send("file", file=str(picture), folder="plots")

    def log_file(self, path: Path) -> None:
        """Store a file of text under its own name."""
        self._send("file", file=str(path))

    def log_dataset(self, dataset: Dataset | TrainingData | LabelledLog | LabelledData, source: str) -> None:
        """Record what the run was made from; `source` is where that came from."""
        self._send("dataset", dataset=records.dataset_input(dataset, source))

    def end(self, error: BaseException | None) -> None:
        """Send what is left and set the status: FINISHED, FAILED, or KILLED (an error that is no `Exception`)."""
        failed = "FAILED" if isinstance(error, Exception) else "KILLED"
        if error is not None:
            self._outbox.hurry()
        waiting = self._take()
        self._send("end", metrics=waiting, tags=self._last_tags, status=failed if error else "FINISHED")

    def _send(self, does: Does, **fields: Any) -> None:
        self._outbox.send(
            Entry(
                server=server_of(self._uri),
                experiment_id=self.experiment_id,
                parent=self._parent_id,
                stage=self._stage,
                at=_now(),
                does=does,
                **fields,
            )
        )


class Tracker(Run):
    """The parent run of a day."""

    @property
    def uri(self) -> str:
        """MLflow's address."""
        return self._uri

    @property
    def url(self) -> str | None:
        """The run's page; None without a server."""
        if not self.uri.startswith("http"):
            return None
        page = f"{self.uri.rstrip('/')}/#/experiments/{self.experiment_id}/runs/{self.mlflow_run_id}"
        # Else MLflow opens among its tools for language models.
        return page + "?workflowType=machine_learning"

    def require(self) -> None:
        """Wait until MLflow answers and has all that was logged.

        Raises:
            AwayError: it does not within `tracking.wait_seconds`.
        """
        self._outbox.require()

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[Run]:
        """Open a stage's child run.

        What its sink receives also becomes `<stage>/<metric>` of the parent, by which days are compared.
        """
        stage = _Stage(self.client, self._outbox, self.experiment_id, self._parent_id, name, self._config)
        stage.begin(self)
        with _lasting(stage):
            yield stage


class _Stage(Run):
    _parent: Tracker

    def begin(self, parent: Tracker) -> None:
        self._parent = parent
        self._send("open")

    def sink(self, event: Event) -> None:
        super().sink(event)
        self._parent.log_metrics({f"{event.stage}/{name}": value for name, value in event.metrics.items()}, event.step)


@contextlib.contextmanager
def open_run(
    config: Config, run_root: Path, identity: Identity, params: Mapping[str, Any], sink: Sink = silent
) -> Iterator[Tracker]:
    """Open a day's parent run; whatever ends the block sets its status: FINISHED, FAILED or KILLED.

    `params` is the whole config as JSON values. If the server goes away meanwhile, `sink` gets a warning.
    """
    client = connect(location(config, run_root))
    # Without a server this process has to say where the artifacts go.
    artifacts = None if config.uri else (run_root.resolve() / "mlartifacts").as_uri()
    experiment_id = _experiment(client, config.experiment or identity.name, artifacts)
    outbox = Outbox(client, run_root / identity.directory, config, sink)
    _send_left(outbox, run_root, identity)
    _end_orphans(client, experiment_id, run_root, identity.directory)
    mine = {_RUN_ID_TAG: identity.run_id}
    tags = _shown(mine | _describe(identity))
    parent = find(client, experiment_id, mine)
    resumed = parent is not None
    if parent is None:
        name = f"{identity.day} {identity.run_id[:6]}"
        parent = client.create_run(experiment_id, tags=tags, run_name=name).info.run_id
        outbox.begin(parent)
    else:
        client.update_run(parent, status="RUNNING")
    tracker = Tracker(client, outbox, experiment_id, parent, None, config)
    with contextlib.closing(outbox), _lasting(tracker), _system_metrics(tracker, config, resumed=resumed):
        if resumed:
            tracker.log_tags(tags)
        tracker.log_params(params)
        yield tracker


def _send_left(outbox: Outbox, run_root: Path, identity: Identity) -> None:
    """Send what earlier runs of this config kept while MLflow was away, the oldest first."""
    left = sorted((run_root / identity.name).glob(f"*/*/{SPOOL}"), key=lambda file: file.stat().st_mtime)
    for directory in (file.parent for file in left):
        with contextlib.ExitStack() as holding:
            if directory != run_root / identity.directory:
                try:
                    holding.enter_context(liveness.held(directory / LOCK))
                except BlockingIOError:
                    continue  # its process lives, and does it
            outbox.send_left(directory)


@contextlib.contextmanager
def _lasting(run: Run) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        try:
            run.end(error)
        except errors() as lost:
            # It may be the one that failed, and must not hide the message.
            error.add_note(f"MLflow could not record the end of run {run.mlflow_run_id}: {redact(str(lost))[:200]}")
        raise
    run.end(None)


@contextlib.contextmanager
def _system_metrics(tracker: Tracker, config: Config, *, resumed: bool) -> Iterator[None]:
    if not config.system_metrics:
        yield
        return
    from recsys_core.tracking.system import monitor

    seconds = config.system_metrics_interval_seconds
    with monitor(tracker.keep_metrics, tracker.uri, tracker.mlflow_run_id, seconds, resumed=resumed):
        yield


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
        _DIRECTORY_TAG: identity.directory,
    }
    return {key: value for key, value in tags.items() if value is not None} | records.revision()


def _end_orphans(client: "MlflowClient", experiment_id: str, run_root: Path, mine: str) -> None:
    """End the runs below `run_root` that a dead process has left RUNNING, those in the directory `mine` included."""
    for run in client.search_runs([experiment_id], "attributes.status = 'RUNNING'"):
        directory = run.data.tags.get(_DIRECTORY_TAG)
        if directory is None or not (directory == mine or liveness.is_dead(run_root / directory / LOCK)):
            continue
        below = f"attributes.status = 'RUNNING' and tags.`{PARENT_TAG}` = '{run.info.run_id}'"
        for orphan in [*client.search_runs([experiment_id], below), run]:
            client.set_terminated(orphan.info.run_id, "KILLED")


def _shown(tags: Mapping[str, str]) -> dict[str, str]:
    return {key: redact(value) for key, value in tags.items()}


def _now() -> int:
    return round(time.time() * 1000)
