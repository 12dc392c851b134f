"""What commands that run one stage alone share: where they work, what they print, and how they refuse."""

import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeVar

import typer

if TYPE_CHECKING:
    from recsys_core.artifacts import Artifact, Request
    from recsys_core.launch import Config as Launch
    from recsys_core.progress import Event, Sink

    A = TypeVar("A", bound=Artifact)

REFUSED_EXIT_CODE = 2


class Done(NamedTuple):
    """What a stage has made, and the seconds that it took."""

    artifact: Any
    seconds: float

    @property
    def rows_per_second(self) -> int:
        """Rows of the artifact by the whole time, the start of processes included."""
        return round(self.artifact.num_rows / max(self.seconds, 1e-9))


@contextlib.contextmanager
def refusing() -> Iterator[None]:
    """Inside, what is wrong with the input ends the command: each line of the message, and exit code 2."""
    try:
        yield
    except ValueError as error:
        refuse(str(error))


def refuse(message: str) -> NoReturn:
    """End the command."""
    from recsys_core.config import reading
    from recsys_core.redaction import redact

    for line in redact(message).splitlines():
        typer.echo(f"error: {reading.printable(line)}", err=True)
    raise typer.Exit(REFUSED_EXIT_CODE)


@contextlib.contextmanager
def working(folder: Path) -> Iterator[None]:
    """Hold the folder that a command works in.

    It is removed once all is done, or the input is refused, and otherwise kept for another try.

    Raises:
        ValueError: another process holds it.
    """
    from recsys_core import liveness

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{folder.parent}: cannot be written ({error.strerror}); name another output") from None
    with contextlib.ExitStack() as holding:
        try:
            holding.enter_context(liveness.held(folder / "lock"))
        except BlockingIOError as held:
            raise ValueError(f"process {held} writes the same output; wait for it, or end it") from None
        try:
            yield
        except ValueError:
            shutil.rmtree(folder)
            raise
        shutil.rmtree(folder)


@contextlib.contextmanager
def making(out: Path) -> Iterator[Path]:
    """Yield where a stage is to leave its artifact, which is moved to `out` in one step once it is done."""
    from recsys_core.artifacts import move_into_place

    out = out.expanduser().absolute()
    work = out.with_name(f".{out.name}.work")
    with working(work):
        yield work / "made"
        move_into_place(work / "made", out)


def require_ours(out: Path, *records: "type[Artifact]") -> None:
    """Look whether what is at `out` may be replaced.

    Raises:
        ValueError: there is something else than a finished artifact of one of the kinds.
    """
    from recsys_core.artifacts import MANIFEST

    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    for record in records:
        with contextlib.suppress(ValueError):
            record.load(out)
            return
    kinds = " or ".join(record.__name__ for record in records)
    raise ValueError(f"{out}: exists, and is no {kinds} ({MANIFEST} does not say so); name another place, or remove it")


def cache() -> Path:
    """Return where commands work whose output is on no disk of this machine."""
    caches = os.environ.get("XDG_CACHE_HOME")
    return (Path(caches) if caches else Path.home() / ".cache") / "dayline" / "work"


def perform(stage: str, record: "type[A]", request: "Request", launched: "Launch") -> Done:
    """Run a stage in processes of its own, its progress shown on stderr; return what it made."""
    from flows import console
    from recsys_core import launch

    started = time.monotonic()
    with console.progress() as sink:
        made = launch.run(stage, record, request, paced(sink), launched)
    return Done(made, time.monotonic() - started)


def paced(sink: "Sink") -> "Sink":
    """Return a sink that adds to events how fast the stage is where they do not say, and so what the rest takes."""
    first: dict[str, tuple[float, int]] = {}

    def emit(event: "Event") -> None:
        if event.error is not None:
            # It ends the command, with one line for itself.
            return
        now = time.monotonic()
        began, before = first.setdefault(event.stage, (now, event.done))
        name = f"{event.unit}_per_second"
        if event.total and name not in event.metrics and event.done > before and now > began:
            speed = (event.done - before) / (now - began)
            event = event.model_copy(update={"metrics": {**event.metrics, name: speed}})
        sink(event)

    return emit


def summary(text: str, fields: dict[str, Any], *, as_json: bool) -> None:
    """Print what was done: one line, or one JSON object."""
    typer.echo(json.dumps(fields, indent=2, default=str) if as_json else text)
