"""What every stage's task shares: do the work once per distinct input, report progress, and keep the time.

A stage's result is remembered under `RUN_ROOT/NAME/cache/STAGE/KEY.json`, where KEY is the digest of everything that
goes into it. Prefect's own caching is not used: it would hand out results whose files are gone.
"""

import contextlib
import errno
import functools
import os
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Generic, ParamSpec, Self, TypeVar

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import TaskRunContext
from prefect.logging import get_run_logger
from prefect.tasks import Task

from recsys_core import fault, integrity, launch, redaction
from recsys_core.artifacts import (
    RUN_STAGES,
    Artifact,
    Checkpoint,
    Embeddings,
    ExportedModel,
    ExportedRanker,
    Frozen,
    Index,
    LabelledData,
    Learned,
    Predictions,
    Request,
    TrainingData,
)
from recsys_core.config import RankingConfig, RunConfig
from recsys_core.progress import Event, Sink, Stopped
from recsys_core.ranking.ingest import Needed
from recsys_core.retrieval.ingest import Needed as NeededExamples
from recsys_core.tracking import AwayError, Tracker, reason
from recsys_core.tracking import Run as TrackedRun

A = TypeVar("A", bound=Artifact)
R = TypeVar("R", bound=Request)
P = ParamSpec("P")
T = TypeVar("T")
C = TypeVar("C", RunConfig, RankingConfig)
M = TypeVar("M", ExportedModel, ExportedRanker)

_LOG_SECONDS = 15.0
_RETRY_DELAYS_SECONDS = [5.0, 30.0]
ABSORB = "absorb_"  # before the names of the stages in which a measured state learns on
# What they do takes a while, and what follows them needs ranks, a process alone (where there are several ranks), FAISS.
_BEFORE_RANKS = ("ingest", "check", "preprocess", "prepare")
_BEFORE_ALONE = ("train",)
_BEFORE_SEARCH = ("embed",)
_HOPELESS = (errno.ENOENT, errno.EACCES, errno.EROFS)


class StageResult(Frozen):
    """What a stage cost this time; `cached`: it had been done before and was not done again."""

    seconds: float
    rows: int
    cached: bool


class Base(Frozen):
    """What training continues, and which rows that has learned from: a release, or (no `version`) this run's state.

    `engine` is the folder of its fitted features.
    """

    version: int | None
    learned: Learned
    checkpoint: Checkpoint
    engine: Path
    engine_digest: str


class Champion(Frozen, Generic[M]):
    """The release to compare with."""

    version: int
    day: date
    model: M


@contextlib.contextmanager
def measuring(champion: Champion[Any]) -> Iterator[None]:
    """Inside, an error says that it is of the live release, and how to publish without comparing."""
    try:
        yield
    except ValueError as error:
        raise ValueError(
            f"the live release, version {champion.version} of {champion.day}, cannot be measured on this day: {error}; "
            "--set gate.maximum_drop=null publishes once without comparing"
        ) from error


class Candidate(Frozen):
    """What the gate decides on, or what is released instead: a trained state with all that was made of it."""

    data: TrainingData
    checkpoint: Checkpoint
    model: ExportedModel
    embeddings: Embeddings
    index: Index


class RankingCandidate(Frozen):
    """The same of a ranking model; `scores` are of the held-out rows."""

    data: LabelledData
    checkpoint: Checkpoint
    model: ExportedRanker
    scores: Predictions


@dataclass(frozen=True, kw_only=True)
class AnyRun(Generic[C]):
    """One run, as `start_run` made it; a context that ends it: its status goes to MLflow, and the directory is let go.

    `fingerprint` is the source's, `pretrained` are those of the files that tables start from. `stages` and `artifacts`
    are filled as the stages end, each under its name with `prefix` before it.
    """

    group: ClassVar[str]  # of the stages that share ranks

    run_id: str
    day: date
    config: C
    code_version: str
    directory: Path
    import_root: Path
    fingerprint: str
    tracker: Tracker
    pretrained: dict[str, str] = field(default_factory=dict)
    prefix: str = ""
    closing: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    stages: dict[str, StageResult] = field(default_factory=dict)
    artifacts: dict[str, Artifact] = field(default_factory=dict)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.closing.__exit__(kind, error, traceback)

    @property
    def home(self) -> Path:
        """The folder of all runs of this name."""
        return self.directory.parents[1]

    def made(self, stage: str, artifact: Artifact, cost: StageResult) -> None:
        """Take a stage as done, and leave beside the run's config where its artifact lies: it may be another run's."""
        self.stages[stage], self.artifacts[stage] = cost, artifact
        # Seen from the folder of the runs of this name, which may be moved with all that is in it.
        places = {name: os.path.relpath(made.path, self.home) for name, made in self.artifacts.items()}
        integrity.write_text(self.directory / RUN_STAGES, integrity.sealed({"stages": places}))

    def request(self, record: type[R], stage: str, /, **fields: Any) -> R:
        """Make a stage's request, which writes to the run's directory."""
        output = self.directory / f"{self.prefix}{stage}"
        return record(output=output, config_hash=self.config.hash, code_version=self.code_version, **fields)


@dataclass(frozen=True, kw_only=True)
class Run(AnyRun[RunConfig]):
    """One day's run of a retrieval model; `needed` is what it needs of ready-made examples, null where it has a log."""

    group = "retrieval"

    base: Base | None
    champion: Champion[ExportedModel] | None
    needed: NeededExamples | None = None

    def absorbing(self, candidate: Candidate) -> Self:
        """Return the same run as it goes on over the rows that `candidate` was measured on: it continues that state."""
        day = candidate.data.ground_truth_day
        return replace(self, prefix=ABSORB, day=day, base=_as_base(candidate), champion=None)


@dataclass(frozen=True, kw_only=True)
class RankingRun(AnyRun[RankingConfig]):
    """One run of a ranking model; one on splits continues nothing, replaces nothing, and needs no days."""

    group = "ranking"

    base: Base | None = None
    champion: Champion[ExportedRanker] | None = None
    needed: Needed | None = None

    def absorbing(self, candidate: RankingCandidate) -> Self:
        """Return the same run as it goes on over the rows that `candidate` was measured on: it continues that state."""
        return replace(self, prefix=ABSORB, base=_as_base(candidate), champion=None)


def _as_base(candidate: Candidate | RankingCandidate) -> Base:
    """Return the run's own state as what its training goes on from."""
    learned = candidate.checkpoint.learned
    assert learned is not None, "this run's state says what it has learned from"
    return Base(
        version=None,
        learned=learned,
        checkpoint=candidate.checkpoint,
        engine=candidate.model.engine,
        engine_digest=candidate.data.engine_digest,
    )


def perform(run: AnyRun[Any], stage: str, record: type[A], request: R, work: Callable[[R, Sink], A]) -> A:
    """Return the artifact of `request`: the one there is, or else what `work(request, sink)` makes."""
    started = time.monotonic()
    emit, stage = listener(), f"{run.prefix}{stage}"
    entry = run.home / "cache" / stage / f"{request.key}.json"
    artifact = _recall(entry, record, request, run.home)
    cached = artifact is not None
    if artifact is None:
        if stage.removeprefix(run.prefix) in _BEFORE_RANKS:
            launch.begin(run.config.launch, run.group)
        if stage.removeprefix(run.prefix) in _BEFORE_ALONE:
            launch.begin(launch.alone(run.config.launch), run.group)
        if stage.removeprefix(run.prefix) in _BEFORE_SEARCH:
            launch.begin(launch.alone(run.config.launch), "search")
        emit(Event(stage=stage, message="started"))
        with _naming_a_full_disk(run.directory), run.tracker.stage(stage) as child:

            def receive(event: Event) -> None:
                event = event.model_copy(update={"stage": f"{run.prefix}{event.stage}"})
                child.sink(event)
                emit(event)

            artifact = work(request, receive)
            _record(child, artifact, seconds=time.monotonic() - started)
        _remember(run, entry, artifact)
    elif not entry.exists():
        # The process that made it was killed before it said so; MLflow has its run as one that was cut off.
        with run.tracker.stage(stage) as child:
            _record(child, artifact)
        _remember(run, entry, artifact)
    cost = StageResult(seconds=round(time.monotonic() - started, 3), rows=artifact.num_rows, cached=cached)
    run.made(stage, artifact, cost)
    message = "done before" if cached else f"done in {cost.seconds:.1f} s"
    emit(Event(stage=stage, done=artifact.num_rows, total=artifact.num_rows, message=message))
    return artifact


def _record(child: TrackedRun, artifact: Artifact, **figures: float) -> None:
    child.log_metrics({"rows": artifact.num_rows, **figures})
    child.tag_at_end({"artifact": str(artifact.path.resolve()), "artifact_digest": artifact.digest})


def _remember(run: AnyRun[Any], entry: Path, artifact: Artifact) -> None:
    artifact.remember(run.home)
    integrity.discard(entry)
    integrity.write_text(entry, integrity.sealed({"path": str(artifact.path.relative_to(run.home))}))


@contextlib.contextmanager
def _naming_a_full_disk(directory: Path) -> Iterator[None]:
    """Turn what libraries and ranks say of a disk without space left into one error that names the place."""
    try:
        yield
    except Exception as error:
        if fault.is_full_disk(error):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(directory)) from error
        raise


def _recall(entry: Path, record: type[A], request: Request, home: Path) -> A | None:
    """Find the finished artifact of `request`, also one whose writer was killed before it could remember it.

    What is damaged is named, and not found.
    """
    places = [request.output]
    if entry.exists():
        with _naming_damage(record):
            places.insert(0, home / integrity.read_record(CacheEntry, entry).path)
    for directory in filter(Path.exists, dict.fromkeys(places)):
        with _naming_damage(record):
            artifact = record.load(directory)
            if artifact.key == request.key:
                artifact.verify(home)
                return artifact
    return None


@contextlib.contextmanager
def _naming_damage(record: type[Artifact]) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        listener()(Event(stage=record.stage, message=f"warning: {error}; the stage is done again"))


class CacheEntry(Frozen):
    """Where a stage's artifact lies, below the folder of the runs of this name."""

    path: Path


def stage_task(verb: str) -> Callable[[Callable[P, T]], Task[P, T]]:
    """Return the decorator of a stage's task, whose first argument is `run`."""
    as_task = task(
        task_run_name=verb + " {run.config.name} {run.day}",
        retries=len(_RETRY_DELAYS_SECONDS),
        retry_delay_seconds=_RETRY_DELAYS_SECONDS,
        retry_condition_fn=_can_help,
        cache_policy=NO_CACHE,
        result_serializer="json",
    )
    return lambda work: as_task(without_credentials(work))


def without_credentials(work: Callable[P, T]) -> Callable[P, T]:
    """Decorate what a task does: Prefect keeps and shows the errors that it raises, and they hold no credentials."""

    @functools.wraps(work)
    def cleaning(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return work(*args, **kwargs)
        except Exception as error:
            redaction.cleaned(error)
            raise

    return cleaning


def _can_help(task: Task[..., Any], _task_run: TaskRun, state: State[Any]) -> bool:
    """Return whether to try again: after a dead rank, a busy disk or a server's restart; not after wrong input."""
    from mlflow.exceptions import MlflowException

    # Not `state.result()`: where an event loop runs, as in a notebook, that is a coroutine.
    error = state.data
    if isinstance(error, fault.Fault) or (isinstance(error, Exception) and fault.is_full_disk(error)):
        hopeful = False
    elif isinstance(error, OSError):
        hopeful = error.errno not in _HOPELESS
    else:
        hopeful = isinstance(error, (RuntimeError, MlflowException))
        hopeful = hopeful and not isinstance(error, (NotImplementedError, Stopped, AwayError))
    if hopeful:
        first = reason(error) if isinstance(error, MlflowException) else str(error).partition("\n")[0]
        listener()(Event(stage=task.name, message=f"failed and is tried again: {first}"))
    return hopeful


@contextlib.contextmanager
def listening(sink: Sink) -> Iterator[None]:
    """Inside, the events of stages go to `sink`; elsewhere to Prefect's log of the task."""
    token = _listener.set(sink)
    try:
        yield
    finally:
        _listener.reset(token)


def listener() -> Sink:
    """Return the sink of the stages' events: see `listening`."""
    return _listener.get() or _TaskLog()


class _TaskLog:
    """The sink where no other is set: a line in the task's log every so often, and one at the end."""

    def __init__(self) -> None:
        self._next = 0.0

    def __call__(self, event: Event) -> None:
        if TaskRunContext.get() is not None and (time.monotonic() >= self._next or event.done == event.total):
            self._next = time.monotonic() + _LOG_SECONDS
            get_run_logger().info(line(event))


_listener: ContextVar[Sink | None] = ContextVar("listener", default=None)


def line(event: Event) -> str:
    """Return an event in words: `train: 12,288 of 60,000 examples, loss 4.213 (message)`."""
    total = f" of {event.total:,}" if event.total is not None and event.total != event.done else ""
    parts = [f"{event.done:,}{total} {event.unit}"] if event.done or event.total else []
    parts += [f"{name} {value:,.4g}" for name, value in event.metrics.items()]
    parts += [f"{timedelta(seconds=round(event.seconds_left))} left"] if event.seconds_left else []
    parts += [event.message] if event.message else []
    return f"{event.stage}: {', '.join(parts)}"
