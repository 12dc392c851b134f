"""What the stand-in stage is asked and leaves, for the tests and for the processes that they start."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Literal

from recsys_core import artifacts
from recsys_core.artifacts import Artifact


class Note(Artifact):
    """What the stage leaves."""

    stage: ClassVar[str] = "note"
    world_size: int


class Request(artifacts.Request):
    """What the stage is to do."""

    does: Literal["write", "refuse", "crash", "fail", "sleep", "die once"]
    deaf: bool = False
    reads: str = ""


def request(directory: Path, does: str, *, deaf: bool = False, reads: str = "") -> Request:
    """Ask the stage to do something."""
    fields = {"output": directory / "note", "config_hash": "c", "code_version": "v", "does": does, "deaf": deaf}
    return Request.model_validate(fields | {"reads": reads})


def ranks_of(directory: Path) -> list[int]:
    """Return the process ids that the ranks wrote down."""
    return [int(text) for file in sorted(directory.glob("pid-*")) if (text := file.read_text())]


def parents_of(directory: Path) -> list[int]:
    """Return those of the processes that have started the ranks."""
    return [int(file.read_text()) for file in sorted(directory.glob("parent-*"))]


def starts_of(directory: Path) -> list[int]:
    """Return how often each rank has begun the stage."""
    return [len(file.read_text()) for file in sorted(directory.glob("starts-*"))]


def attempts_of(directory: Path) -> set[str]:
    """Return at which restarts of the group a rank began the stage; where one fails, others may not have begun."""
    return {number for file in directory.glob("starts-*") for number in file.read_text()}


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until it holds."""
    deadline = time.monotonic() + 600
    while not condition():
        assert time.monotonic() < deadline, "gave up waiting"
        time.sleep(0.05)
