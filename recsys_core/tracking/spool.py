"""What is sent to MLflow, one entry at a time, and what is kept beside the run while its server does not answer.

An entry that cannot be sent is appended to `mlflow.spool.jsonl` in the run's directory, and so are all that follow, so
that their order stays. When the server answers again, in this run or when the next run of the config begins, they are
sent. Whatever was sent before its answer was lost is sent again: points of curves carry the time at which they were
measured, runs are found by their tags, and the rest says what is, so that none counts twice.
"""

import os
import shutil
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

from pydantic import ConfigDict, Field

from recsys_core.artifacts import Frozen, digest_of
from recsys_core.progress import Event, Sink
from recsys_core.redaction import redact
from recsys_core.tracking.store import Config, errors, impatient, is_away, reason

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput

SPOOL = "mlflow.spool.jsonl"
_REFUSED, _FILES = "mlflow.refused.jsonl", "mlflow.spool"
# A server that is busy answers late: it is not away for that.
_PATIENCE_SECONDS = 20.0
_PROBE_SECONDS = 10.0
_MAX_METRICS, _MAX_PARAMS = 1_000, 100  # of one call
PARENT_TAG, STAGE_TAG = "mlflow.parentRunId", "dayline.stage"


Does = Literal["open", "metrics", "params", "tags", "file", "dataset", "end"]


class AwayError(RuntimeError):
    """MLflow is needed, and has not answered for as long as it may take."""


class Entry(Frozen):
    """Something to be sent to the MLflow run `parent`, or to that of one of its stages, at `at` (ms since 1970).

    `server` is a digest of its address, which may hold a password; `metrics` are name, value, time in ms and step; a
    `file` goes below `folder`. Metrics and tags come with the `end` too.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=True, ser_json_inf_nan="constants")

    server: str
    experiment_id: str
    parent: str
    stage: str | None
    at: int
    does: Does
    metrics: tuple[tuple[str, float, int, int], ...] = ()
    params: dict[str, str] = Field(default_factory=dict)
    tags: dict[str, str] = Field(default_factory=dict)
    file: str = ""
    folder: str | None = None
    dataset: dict[str, str] = Field(default_factory=dict)
    status: str = ""


class Outbox:
    """Sends the entries of one run, in order; keeps what its server does not take."""

    def __init__(self, client: "MlflowClient", directory: Path, config: Config, sink: Sink) -> None:
        """`directory` is the run's; what a person should know of goes to `sink`."""
        self._client, self._directory, self._config, self._sink = client, directory, config, sink
        self._file = directory / SPOOL
        self._ids: dict[tuple[str, str | None], str] = {}
        self._new: set[str] = set()
        self._guard = threading.RLock()
        self._away_since: float | None = None
        self._next_probe = 0.0
        self._patience_seconds = max(_PATIENCE_SECONDS, config.check_seconds)

    @property
    def where(self) -> str:
        """The server's address, as it may be shown."""
        return redact(self._client.tracking_uri)

    def run_id(self, parent: str, stage: str | None) -> str:
        """Return the MLflow run of a stage; empty while the server has not been asked."""
        return self._ids.get((parent, stage), "") if stage else parent

    def begin(self, parent: str) -> None:
        """Say that `parent` has just been made: while every answer comes, its stages' runs are known without asking."""
        self._new.add(parent)

    def send(self, entry: Entry) -> None:
        """Send `entry` after all that was kept before it, or keep it too.

        Raises:
            MlflowException: the server answers, and refuses it.
        """
        with self._guard:
            if self._away_since is not None and not self._answers_again():
                self._keep(entry)
                return
            try:
                with impatient(self._patience_seconds):
                    self._apply(entry)
            except errors() as error:
                if not is_away(error, self._client.tracking_uri):
                    raise
                self._lose(error)
                self._keep(entry)

    def hurry(self) -> None:
        """Give the server no more than `tracking.check_seconds` from now on: something has failed, or is to stop."""
        self._patience_seconds = self._config.check_seconds

    def require(self) -> None:
        """Wait until the server answers and has what was kept, for at most `tracking.wait_seconds`.

        Raises:
            AwayError: it has not.
        """
        seconds = self._config.wait_seconds
        deadline, emitted = time.monotonic() + seconds, False
        while (lost := self._ping()) is not None or not self._drain(self._directory):
            why = f" ({reason(lost)})" if lost else ""
            if time.monotonic() > deadline:
                raise AwayError(
                    f"MLflow at {self.where} has not answered for {seconds:g} s{why}, and publishing needs it; start "
                    "it and run this again: finished stages are kept"
                )
            if not emitted:
                self._emit(f"waiting for MLflow at {self.where}{why}, up to {seconds:g} s: publishing needs it")
                emitted = True
            time.sleep(1)
        self._away_since = None

    def close(self) -> None:
        """Say what is left to be sent, after another try."""
        with self._guard:
            if self._away_since is not None and not self._answers_again():
                left = sum(1 for _ in entries(self._file))
                self._emit(
                    f"warning: {self.where} still does not answer; {left:,} records of this run are kept in "
                    f"{self._file} and sent by the next run of this config"
                )

    def send_left(self, directory: Path) -> None:
        """Send what an earlier process left for this server in `directory`, whose lock is held.

        Raises:
            AwayError: the server does not answer.
        """
        kept = list(entries(directory / SPOOL))
        if any(entry.server != server_of(self._client.tracking_uri) for entry in kept):
            return
        left = len(kept)
        if not self._drain(directory):
            raise AwayError(f"MLflow at {self.where} does not answer; run this again when it does")
        self._emit(f"{left:,} records of {directory.parent.name}, kept while MLflow was away, are sent")

    def _ping(self) -> Exception | None:
        try:
            with impatient(self._config.check_seconds):
                self._client.search_experiments(max_results=1)
        except errors() as error:
            if not is_away(error, self._client.tracking_uri):
                raise
            return error
        return None

    def _lose(self, error: Exception) -> None:
        self._away_since = time.monotonic()
        self._new.clear()
        self._next_probe = self._away_since + _PROBE_SECONDS
        self._emit(
            f"warning: MLflow at {self.where} does not answer ({reason(error)}); what is logged is kept in "
            f"{self._file} and sent when it does, it is asked every {_PROBE_SECONDS:g} s"
        )

    def _answers_again(self) -> bool:
        """Ask, if it is time, and send what was kept; return whether that is done."""
        assert self._away_since is not None
        if time.monotonic() < self._next_probe:
            return False
        self._next_probe = time.monotonic() + _PROBE_SECONDS
        left = sum(1 for _ in entries(self._file))
        if self._ping() is not None or not self._drain(self._directory):
            return False
        seconds, self._away_since = time.monotonic() - self._away_since, None
        self._emit(f"warning: {self.where} answers again after {seconds:.0f} s; {left:,} records are sent")
        return True

    def _drain(self, directory: Path) -> bool:
        """Send what is kept in `directory`; return whether it is."""
        file = directory / SPOOL
        try:
            with impatient(self._patience_seconds):
                for entry in _merged(entries(file)):
                    self._apply(entry, directory)
        except errors() as error:
            if is_away(error, self._client.tracking_uri):
                return False
            # It would refuse it again, and all that is kept behind it would wait for ever.
            file.rename(directory / _REFUSED)
            self._emit(f"warning: MLflow refuses what was kept, it is in {directory / _REFUSED}: {reason(error)}")
            return True
        file.unlink(missing_ok=True)
        shutil.rmtree(directory / _FILES, ignore_errors=True)
        return True

    def _keep(self, entry: Entry) -> None:
        """Append to the spool; an entry's file is copied, as it may be gone or another when it is sent."""
        self._directory.mkdir(parents=True, exist_ok=True)
        if entry.file:
            copy = Path(_FILES, str(time.time_ns()), Path(entry.file).name)
            (self._directory / copy).parent.mkdir(parents=True)
            shutil.copyfile(entry.file, self._directory / copy)
            entry = entry.model_copy(update={"file": str(copy)})
        with self._file.open("ab+") as file:
            if file.tell() and not _ends_a_line(file):
                # A full disk has cut off the last one.
                file.truncate(len(_complete(self._file)))
            file.write(entry.model_dump_json(exclude_defaults=True).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def _emit(self, message: str) -> None:
        self._sink(Event(stage="mlflow", message=message))

    def _apply(self, entry: Entry, directory: Path | None = None) -> None:
        """Send one entry; the file of one that was kept lies in `directory`."""
        from mlflow.entities import Metric, Param, RunTag

        client = self._client
        if entry.does == "open":
            self._open(entry)
            return
        run_id = self.run_id(entry.parent, entry.stage) or self._open(entry)
        if entry.does == "params":
            # MLflow's params are for good: those that are there stay.
            known = client.get_run(run_id).data.params
            new = [Param(key, value) for key, value in entry.params.items() if key not in known]
            for start in range(0, len(new), _MAX_PARAMS):
                client.log_batch(run_id, params=new[start : start + _MAX_PARAMS])
        elif entry.does == "file":
            client.log_artifact(run_id, str(directory / entry.file if directory else entry.file), entry.folder)
        elif entry.does == "dataset":
            client.log_inputs(run_id, datasets=[_dataset(entry.dataset)])
        else:
            points = [Metric(*point) for point in entry.metrics]
            tags = [RunTag(key, value) for key, value in entry.tags.items()]
            for start in range(0, max(len(points), bool(tags)), _MAX_METRICS):
                client.log_batch(run_id, points[start : start + _MAX_METRICS], tags=[] if start else tags)
            if entry.does == "end":
                client.set_terminated(run_id, entry.status, end_time=entry.at)

    def _open(self, entry: Entry) -> str:
        """Start the stage's run, or take up the one there is; return its id."""
        assert entry.stage is not None, "the parent is there before anything is sent"
        tags = {PARENT_TAG: entry.parent, STAGE_TAG: entry.stage}
        found = self.run_id(entry.parent, entry.stage)
        if not found and entry.parent not in self._new:
            found = find(self._client, entry.experiment_id, tags)
        if not found:
            made = self._client.create_run(entry.experiment_id, start_time=entry.at, tags=tags, run_name=entry.stage)
            found = made.info.run_id
        elif entry.does == "open":
            self._client.update_run(found, status="RUNNING")
        self._ids[entry.parent, entry.stage] = found
        return found


def find(client: "MlflowClient", experiment_id: str, tags: dict[str, str]) -> str | None:
    """Return the run that has these tags."""
    condition = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
    found = client.search_runs([experiment_id], condition, max_results=1)
    return found[0].info.run_id if found else None


def entries(file: Path) -> Iterable[Entry]:
    """Read a spool; a last line that was cut off when its writer died is none."""
    if file.exists():
        for line in _complete(file).splitlines():
            yield Entry.model_validate_json(line)


def _complete(file: Path) -> bytes:
    whole, newline, _ = file.read_bytes().rpartition(b"\n")
    return whole + newline


def _ends_a_line(file: BinaryIO) -> bool:
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"


def server_of(uri: str) -> str:
    """Return what distinguishes one server's address from another's without naming it."""
    return digest_of(uri)[:12]


def _merged(kept: Iterable[Entry]) -> list[Entry]:
    """Put the points of neighbouring entries into one for each run: hours of curves are few calls then."""
    found: list[Entry] = []
    points: dict[tuple[str, str | None], list[tuple[str, float, int, int]]] = {}
    first: dict[tuple[str, str | None], Entry] = {}

    def end() -> None:
        found.extend(one.model_copy(update={"metrics": tuple(points[run])}) for run, one in first.items())
        points.clear()
        first.clear()

    for entry in kept:
        if entry.does == "metrics":
            run = (entry.parent, entry.stage)
            first.setdefault(run, entry)
            points.setdefault(run, []).extend(entry.metrics)
        else:
            end()
            found.append(entry)
    end()
    return found


def _dataset(fields: dict[str, str]) -> "DatasetInput":
    from mlflow.entities import Dataset, DatasetInput, InputTag

    context = fields["context"]
    dataset = Dataset(**{name: value for name, value in fields.items() if name != "context"})
    return DatasetInput(dataset, [InputTag("mlflow.data.context", context)])
