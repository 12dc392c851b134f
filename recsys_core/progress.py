"""What a running stage emits: one event type for every listener (a progress bar, MLflow, a log).

A stage calls its sink every so often. In the ranks that torchrun starts the sink appends JSON lines to a file, which
the launcher follows; in the flow's own process the sink is the listener itself. Stages never know which.
"""

from collections.abc import Callable
from pathlib import Path

from pydantic import Field, field_validator

from recsys_core.artifacts import Frozen
from recsys_core.redaction import redact


class Event(Frozen):
    """A moment of a stage: how far it is, and what it measured.

    `done` and `total` count `unit`s; `metrics` are points of curves at `step` (None: a final value);
    `error` is the message of the bad input that ended the stage, `stopped` that of a stage that was asked to stop.
    """

    stage: str
    done: int = 0
    total: int | None = None
    unit: str = "rows"
    step: int | None = None
    metrics: dict[str, float] = Field(default_factory=dict)
    message: str | None = None
    error: str | None = None
    stopped: str | None = None

    @field_validator("message", "error", "stopped")
    @classmethod
    def _without_credentials(cls, text: str | None) -> str | None:
        return None if text is None else redact(text)

    @property
    def seconds_left(self) -> float | None:
        """How long the rest takes at the speed that was measured last; None if none was."""
        speed = self.metrics.get(f"{self.unit}_per_second")
        return (self.total - self.done) / speed if speed and self.total is not None else None


class Stopped(RuntimeError):  # noqa: N818 - nothing went wrong
    """A stage that was asked to stop has kept what it had, and a rerun goes on from there."""


# What a process exits with then: BSD's EX_TEMPFAIL, "the user is invited to try again later".
STOPPED_EXIT_CODE = 75

Sink = Callable[[Event], None]


def silent(event: Event) -> None:
    """Listen to nothing."""


def to_file(path: Path) -> Sink:
    """Return a sink that appends each event to `path` as one JSON line."""

    def append(event: Event) -> None:
        with path.open("a") as file:
            file.write(event.model_dump_json() + "\n")

    return append
