"""Starts a stage on its ranks, follows their events, and leaves no process behind, whichever process dies first.

Where the ranks run is the matter of a launcher, one kind per file of `launchers`. What follows is of those on this
machine; see `node` for those of a scheduler.

The launcher alone holds the write end of the ranks' standard input. When its process dies, even by SIGKILL, the kernel
closes that end, every rank reads the end of the file and exits, and torchrun ends with them. When torchrun dies, the
launcher closes it. Ranks have sessions of their own, so no process group would reach them all.

A process that is lost may be made up for by torchrun itself, which starts all ranks again (`launch.max_restarts`). Not
so a stage that refuses its input, or was asked to stop: it would end again as it ended.

Inside `keeping`, the ranks of several stages are forked by the same processes: see `launch.kept`.

To stop a stage (an exception in the launcher, as Ctrl-C, Prefect's cancellation and a stage that takes too long are),
SIGTERM is sent, which torchrun hands on. Ranks that can keep what they have done (training writes a checkpoint) get
`launch.stop_grace_seconds` for it; only then the standard input is closed.
"""

import errno
import math
import os
import re
import shutil
import signal
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from recsys_core import lookup
from recsys_core.artifacts import Artifact, Request, write_text
from recsys_core.fault import Fault
from recsys_core.launch import processes
from recsys_core.launch.config import Config, alone
from recsys_core.launch.kept import begin, keeping, prepare
from recsys_core.launch.launchers.base import Launcher, Stage, Started
from recsys_core.launch.launchers.local import Config as Local
from recsys_core.launch.processes import environment
from recsys_core.progress import Event, Sink, Stopped

__all__ = [
    "CATALOGUE",
    "Config",
    "Local",
    "OutOfTimeError",
    "alone",
    "begin",
    "do",
    "environment",
    "exit_with_starter",
    "fault_file",
    "keeping",
    "prepare",
    "run",
]

A = TypeVar("A", bound=Artifact)

CATALOGUE = "recsys_core.launch.launchers"
_LOG_LINES = 20
_FULL_DISK_BYTES = 1 << 20
_FRAME = re.compile(r"(\[rank\d+\]: ?)?(Traceback \(most recent call last\):| +File \".*\", line \d+| {4})")


class OutOfTimeError(RuntimeError):
    """A stage took longer than it may, and was stopped."""


def run(stage: str, record: type[A], request: Request, sink: Sink, config: Config) -> A:
    """Run `stage` and return the artifact that it leaves at its output; see `do`."""
    do(stage, request, sink, config)
    return record.load(request.output)


def do(stage: str, request: Request, sink: Sink, config: Config) -> None:
    """Run `stage` as `python -m recsys_core` on `config`'s ranks.

    The request, the events and the log lie beside the output as `STAGE.request.json`, `.events.jsonl` and `.log`.

    Raises:
        Stopped: its processes received a signal to stop, and did so in good order.
        ValueError: the stage refused its input; the message is the stage's own.
        OutOfTimeError: it took longer than `config` lets it take.
        RuntimeError: a process of it failed; names the exit code and ends with the log's last lines, or is a `Fault`.
    """
    beside = request.output.parent / request.output.name
    log, events = beside.with_suffix(".log"), beside.with_suffix(".events.jsonl")
    asked = beside.with_suffix(".request.json")
    write_text(asked, request.model_dump_json(indent=2))
    events.unlink(missing_ok=True)
    fault_file(asked).unlink(missing_ok=True)
    reads = tuple(_reads(request))
    launcher: Launcher[Config] = lookup.content(CATALOGUE, config.kind)(config)
    ranks = launcher.start(
        Stage(name=stage, key=request.key, request=asked, events=events, log=log, reads=reads, sink=sink)
    )
    tail = _Tail(events, sink)
    try:
        exit_code = _follow(stage, ranks, tail, config)
    finally:
        ranks.stop(config.stop_grace_seconds)
        tail.forward()
    if exit_code:
        if shutil.disk_usage(log.parent).free < _FULL_DISK_BYTES:
            raise OSError(errno.ENOSPC, f"{stage}: no space left", str(log.parent))
        if (written := fault_file(asked)).exists():
            *_, message = filter(None, map(str.strip, written.read_text().splitlines()))
            raise Fault(f"{stage}: a fault of Dayline, written to {written}: {message}")
        ended = f"was killed by {signal.Signals(-exit_code).name}" if exit_code < 0 else f"ended with code {exit_code}"
        lines = "".join(f"\n  {line}" for line in _last_lines(log))
        raise RuntimeError(f"{stage}: its process {ended}; the end of {log}:{lines}")


def fault_file(request: Path) -> Path:
    """Return where the first rank that ends in a way that no code expected says how, by the file of its request."""
    return request.with_name(request.name.replace(".request.json", "") + ".fault.txt")


def exit_with_starter() -> None:
    """Wait for the end of standard input, whose other end the starter holds; the kernel closes it when that dies."""
    while os.read(0, 1024):
        pass
    os._exit(143)


class _Tail:
    """Reads a file of events as it grows."""

    def __init__(self, path: Path, sink: Sink) -> None:
        self._path, self._sink = path, sink
        self._position = 0
        self.error: str | None = None
        self.stopped: str | None = None

    @property
    def has_ended(self) -> bool:
        """Whether the stage has ended in a way that it would end in again."""
        return self.error is not None or self.stopped is not None

    def forward(self) -> None:
        """Hand the complete lines since the last call to the sink."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._position)
            complete = file.read().rpartition(b"\n")[0]
        if not complete:
            return
        self._position += len(complete) + 1
        for line in complete.split(b"\n"):
            event = Event.model_validate_json(line)
            self.error, self.stopped = self.error or event.error, self.stopped or event.stopped
            self._sink(event)


def _follow(stage: str, ranks: Started, tail: _Tail, config: Config) -> int | None:
    """Return the exit code; None of ranks that are to be stopped, as torchrun would start them again for nothing."""
    allowed = config.stage_timeout_seconds
    deadline = time.monotonic() + allowed if allowed else math.inf
    while (exit_code := ranks.poll()) is None and not (config.max_restarts and tail.has_ended):
        tail.forward()
        if ranks.is_queued and allowed:
            deadline = time.monotonic() + allowed
        left = deadline - time.monotonic()
        if left <= 0:
            raise OutOfTimeError(f"{stage}: not done after launch.stage_timeout_seconds = {allowed:g}; stopped")
        ranks.wait(min(processes.POLL_SECONDS, left))
    tail.forward()
    if exit_code != 0 and tail.stopped:
        raise Stopped(f"{stage}: {tail.stopped}")
    if exit_code != 0 and tail.error:
        raise ValueError(tail.error)
    return exit_code


def _reads(request: Request) -> Iterator[str]:
    """Yield the texts that name what a stage reads: its request, and the features' own files, as of start vectors."""
    yield request.model_dump_json()
    for name in type(request).model_fields:
        held = getattr(request, name)
        if isinstance(held, Artifact):
            for file in sorted((held.path / "features").glob("*.json")):
                yield file.read_text()


def _last_lines(log: Path) -> deque[str]:
    """Return the end of what the ranks said, up to torchrun's own last line on which of them failed and how.

    Of tracebacks only the errors.
    """
    lines: deque[str] = deque(maxlen=_LOG_LINES)
    failed: deque[str] | None = None
    with log.open(errors="replace") as file:
        for line in file:
            if _FRAME.match(line):
                continue
            lines.append(line.rstrip("\n"))
            if "torch/distributed/elastic" in line and "(exitcode:" in line:
                failed = lines.copy()
    return lines if failed is None else failed
