"""What a launcher is: it starts one stage, and hands back what the stage is followed and stopped by."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from recsys_core.launch.config import Config
from recsys_core.progress import Sink

C = TypeVar("C", bound=Config)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stage to start: the files that its ranks read and write, and `reads`, the texts that name what it opens."""

    name: str
    key: str
    request: Path
    events: Path
    log: Path
    reads: tuple[str, ...]
    sink: Sink


class Started(Protocol):
    """The ranks of a stage that was started."""

    @property
    def is_queued(self) -> bool:
        """Whether it waits for machines: that is no time of the stage's own."""
        ...

    def poll(self) -> int | None:
        """Return the exit code once all ranks have ended; the first that is not zero as soon as there is one.

        Raises:
            ValueError: it cannot run as it was asked to; says what to change.
            RuntimeError: it is lost, and may be started again.
        """
        ...

    def wait(self, seconds: float) -> None:
        """Wait before `poll` is worth a call again."""
        ...

    def stop(self, grace_seconds: float) -> None:
        """End what still runs, politely and then by force. Does nothing to a stage that has ended by itself."""
        ...


class Launcher(ABC, Generic[C]):
    """Starts stages by the section `launch` of its kind."""

    def __init__(self, config: C) -> None:
        """Nothing is started yet."""
        self.config = config

    @abstractmethod
    def start(self, stage: Stage) -> Started:
        """Start `stage`.

        Raises:
            ValueError: where it should run takes no such stage; says what to change.
        """
