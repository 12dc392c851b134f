"""What a running stage tells: one event type, whoever listens (a progress bar, MLflow, a log).

A stage calls its sink every so often. In the ranks that torchrun starts the sink appends JSON lines to a file, which
the launcher follows; in the flow's own process the sink is the listener itself. Stages never know which.
"""

from collections.abc import Callable
from pathlib import Path

from pydantic import Field

from recsys_core.artifacts import Frozen


class Event(Frozen):
    """A moment of a stage: how far it is, and what it measured.

    `done` and `total` count `unit`s; `metrics` are points of curves at `step` (None: a final value);
    `error` is the message of the bad input that ended the stage.
    """

    stage: str
    done: int = 0
    total: int | None = None
    unit: str = "rows"
    step: int | None = None
    metrics: dict[str, float] = Field(default_factory=dict)
    message: str | None = None
    error: str | None = None


Sink = Callable[[Event], None]


def silent(event: Event) -> None:
    """Listen to nothing."""


def to_file(path: Path) -> Sink:
    """Return a sink that appends each event to `path` as one JSON line."""

    def append(event: Event) -> None:
        with path.open("a") as file:
            file.write(event.model_dump_json() + "\n")

    return append
