"""What the launchers of schedulers share: a job whose nodes are followed by the files that they leave.

A scheduler is asked for what those files cannot say: that the job waits, and why; that a node never began, or is lost.
"""

import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

from pydantic import Field, field_validator

from recsys_core.launch import config, processes
from recsys_core.launch.launchers import base
from recsys_core.launch.launchers.base import Stage
from recsys_core.launch.meeting import Meeting, Order, Pulse
from recsys_core.progress import Event
from recsys_core.redaction import is_secret, redact
from recsys_core.variables import schemes_of

LOOK_SECONDS = 5.0
# What a node has written may be seen here that much later than the scheduler says that it has ended.
SETTLE_SECONDS = 15.0
_AWAY_SECONDS = 300.0
_GRACE_SECONDS = 10.0


class AwayError(ConnectionError):
    """The scheduler does not answer just now."""


class Config(config.Config):
    """What every scheduler's kind reads."""

    start_timeout_seconds: float | None = Field(
        default=3600, gt=0, description="a stage that has not begun by then, as in a queue, fails; null: never"
    )
    environment: dict[str, str] = Field(
        default={}, description="variables of the stages' processes; credentials do not stand here"
    )

    @field_validator("environment")
    @classmethod
    def _without_credentials(cls, environment: dict[str, str]) -> dict[str, str]:
        for name, value in environment.items():
            if not name.isidentifier():
                raise ValueError(f"{name!r} is no name of a variable")
            if is_secret(name) or redact(value) != value:
                raise ValueError(f"{name} holds a credential, and configs are kept and shown; {cls.where_secrets_go()}")
        return environment

    @classmethod
    def where_secrets_go(cls) -> str:
        """Return what to do with a credential instead."""
        raise NotImplementedError


class Status(NamedTuple):
    """What a scheduler says of a job, in its own words too."""

    phase: Literal["queued", "running", "ended", "failed", "unknown"]
    words: str


class Job(ABC):
    """A job that was submitted: `base.Started`."""

    def __init__(self, name: str, stage: Stage, config: Config, meeting: Meeting) -> None:
        """`name` is what it is called where it is shown, as `Slurm job 4711`."""
        self.name = name
        self._stage, self._config, self._meeting = stage, config, meeting
        self._submitted = time.monotonic()
        self._pulses: dict[int, Pulse] = {}
        self._next_look = 0.0
        self._last_answer = self._submitted
        self._ended_since: float | None = None
        self._said = ""
        self._codes: dict[int, int] = {}
        self._lost: set[int] = set()

    @abstractmethod
    def look(self) -> Status:
        """Ask the scheduler.

        Raises:
            AwayError: it does not answer.
            ValueError: the job cannot begin as it was asked for.
        """

    @abstractmethod
    def cancel(self) -> None:
        """End the job, which may have ended, and what the scheduler keeps of it."""

    def finish(self) -> None:  # noqa: B027 - most schedulers see to it
        """Leave a job that has ended by itself."""

    def output(self) -> str:
        """Return the end of what the scheduler has of the job's own output, from before the stage's log began."""
        return ""

    @property
    def is_queued(self) -> bool:
        """Whether some node has not begun."""
        return len(self._pulses) < self._config.num_nodes

    def wait(self, seconds: float) -> None:
        """See `base.Started`."""
        time.sleep(seconds)

    def poll(self) -> int | None:
        """See `base.Started`."""
        self._meeting.renew()
        self._see_nodes()
        self._codes = self._meeting.exit_codes()
        failed = next((node for node, code in self._codes.items() if code), None)
        if failed is not None:
            self._append(self._meeting.log(failed) if failed else None)
            return self._codes[failed]
        if self._has_ended:
            return 0
        if time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + LOOK_SECONDS
            self._ask()
        return None

    def stop(self, grace_seconds: float) -> None:
        """See `base.Started`."""
        if not self._has_ended:
            self._meeting.end()
            until = time.monotonic() + grace_seconds + _GRACE_SECONDS
            begun = set(self._pulses) - self._lost
            while begun - set(self._meeting.exit_codes()) and time.monotonic() < until:
                time.sleep(processes.POLL_SECONDS)
        try:
            self.finish() if self._has_ended else self.cancel()
        except (OSError, RuntimeError, ValueError) as error:
            left = f"{self.name} could not be cancelled: {error}; its nodes end by themselves within minutes"
            self._emit(f"warning: {left}; look for it there")

    @property
    def _has_ended(self) -> bool:
        return len(self._codes) == self._config.num_nodes and not any(self._codes.values())

    def _emit(self, message: str) -> None:
        self._stage.sink(Event(stage=self._stage.name, message=message))

    def _say(self, message: str) -> None:
        if message != self._said:
            self._said = message
            self._emit(f"{self.name}: {message}")

    def _see_nodes(self) -> None:
        for node in range(self._config.num_nodes):
            if node in self._pulses:
                continue
            place = self._meeting.place(node)
            if place is not None:
                self._pulses[node] = Pulse(self._meeting.alive(node))
                self._say(f"node {node} runs on {place.partition(' ')[0]}")
        for node, pulse in self._pulses.items():
            if node not in self._codes and pulse.is_gone():
                self._lost.add(node)
                raise RuntimeError(f"{self._stage.name}: node {node} of {self.name} is lost: it shows no sign of life")

    def _ask(self) -> None:
        now = time.monotonic()
        try:
            status = self.look()
        except AwayError as error:
            if now - self._last_answer > _AWAY_SECONDS:
                raise RuntimeError(f"{self._stage.name}: {self.name} cannot be followed: {error}") from error
            self._say(f"{error}; asked again")
            return
        self._last_answer = now
        if self.is_queued:
            self._say(status.words)
        if status.phase in ("ended", "failed"):
            self._settle(status, now)
        else:
            self._ended_since = None
            allowed = self._config.start_timeout_seconds
            if self.is_queued and allowed is not None and now - self._submitted > allowed:
                raise ValueError(
                    f"{self._stage.name}: {self.name} did not begin within launch.start_timeout_seconds = "
                    f"{allowed:g} ({status.words}); it is cancelled: ask for less, or set that higher"
                )

    def _settle(self, status: Status, now: float) -> None:
        """Take a job as ended whose nodes have left no exit code, once they would be seen."""
        if self._ended_since is None:
            self._ended_since = now
        if now - self._ended_since < SETTLE_SECONDS:
            return
        self._lost.update(self._pulses)
        output = self.output()
        if output:
            with self._stage.log.open("a") as log:
                log.write(output if output.endswith("\n") else f"{output}\n")
        last = next((f": {line.strip()}" for line in reversed(output.splitlines()) if line.strip()), "")
        if self._pulses or status.phase == "failed":
            raise RuntimeError(f"{self._stage.name}: {self.name} is lost ({status.words}){last}; see {self._stage.log}")
        raise ValueError(
            f"{self._stage.name}: {self.name} has ended, and none of its nodes wrote to {self._meeting.folder}{last}; "
            "mount the storage of the run directory at the same path there"
        )

    def _append(self, other: Path | None) -> None:
        """Add the log of the node that failed to the stage's, whose end is shown."""
        if other is not None and other.is_file():
            with self._stage.log.open("a") as log:
                log.write(other.read_text(errors="replace"))


C = TypeVar("C", bound=Config)


class Launcher(base.Launcher[C]):
    """Writes the order of a stage down, and submits a job whose nodes carry it out."""

    # In which the scheduler says which of the nodes one is.
    rank_variable: str

    def start(self, stage: Stage) -> Job:
        """See `base.Launcher.start`."""
        stage.log.write_text("")
        beside = stage.request.absolute()
        order = Order(
            stage=stage.name,
            module=processes.MODULE,
            request=beside,
            events=stage.events.absolute(),
            log=stage.log.absolute(),
            key=stage.key,
            directory=Path.cwd(),
            rank_variable=self.rank_variable,
            environment=self.config.environment,
            reads=tuple(f"{scheme}://" for scheme in sorted(schemes_of(stage.reads))),
            num_ranks=self.config.num_ranks,
            num_nodes=self.config.num_nodes,
            threads_per_rank=self.threads_per_rank,
            max_restarts=self.config.max_restarts,
            stop_grace_seconds=self.config.stop_grace_seconds,
        )
        meeting = Meeting.opened(beside.with_name(beside.name.replace(".request.json", ".nodes")), order)
        try:
            job = self.submit(stage, meeting)
        except BaseException:
            meeting.remove()
            raise
        job._say("submitted")  # noqa: SLF001 - of its own kind
        return job

    @property
    def threads_per_rank(self) -> int | None:
        """What a rank computes on; None: the cores of its machine shared out."""
        return self.config.threads_per_rank

    @abstractmethod
    def submit(self, stage: Stage, meeting: Meeting) -> Job:
        """Submit a job that runs `recsys_core.launch.node` with the meeting's folder on each node.

        Raises:
            ValueError: the scheduler is not there, or does not take it; says what to change.
        """
