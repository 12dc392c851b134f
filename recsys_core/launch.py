"""Starts a stage on its ranks, follows their events, and leaves no process behind, whichever process dies first.

The launcher alone holds the write end of the ranks' standard input. When its process dies, even by SIGKILL, the kernel
closes that end, every rank reads the end of the file and exits, and torchrun ends with them. When torchrun dies, the
launcher closes it. Ranks have sessions of their own, so no process group would reach them all.

A process that is lost may be made up for by torchrun itself, which starts all ranks again (`launch.max_restarts`). Not
so a stage that refuses its input, or was asked to stop: it would end again as it ended.

To stop a stage (an exception in the launcher, as Ctrl-C, Prefect's cancellation and a stage that takes too long are),
SIGTERM is sent, which torchrun hands on. Ranks that can keep what they have done (training writes a checkpoint) get
`launch.stop_grace_seconds` for it; only then the standard input is closed.
"""

import contextlib
import errno
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Self, TypeVar

import psutil
from pydantic import Field, model_validator

from recsys_core.artifacts import Artifact, Frozen, Request, write_text
from recsys_core.fault import Fault
from recsys_core.progress import Event, Sink, Stopped
from recsys_core.variables import without_credentials

A = TypeVar("A", bound=Artifact)

_MODULE = "recsys_core"
_POLL_SECONDS = 0.2
_GRACE_SECONDS = 10.0
_LOG_LINES = 20
_FULL_DISK_BYTES = 1 << 20
_FRAME = re.compile(r"(\[rank\d+\]: ?)?(Traceback \(most recent call last\):| +File \".*\", line \d+| {4})")
# Threads that go to sleep at once between a step's many short loops cost a fifth of it on idle cores; threads that spin
# for long cost more than half of it where a server or another stage needs one of the cores. These spin for some 10 µs.
_WAITING = {"GOMP_SPINCOUNT": "1000"}
# A step allocates and frees the same hundreds of megabytes as the last one. glibc would give each large block back to
# the kernel and get it again page by page, zeroed: half the time of a step with attention over sequences.
_KEEPING = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40)}
# torchrun keeps one store for all restarts, where ranks would find the addresses of those before them. With this the
# first rank opens a new store each time.
_RESTARTING = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}


class Config(Frozen):
    """YAML section `launch`: on how many processes the ranked stages run."""

    num_ranks: int = Field(default=1, ge=1, description="processes per node; one per GPU, or a few per CPU")
    num_nodes: int = Field(default=1, ge=1, description="nodes that share the run directory")
    rendezvous_endpoint: str | None = Field(
        default=None,
        pattern=r"^([^\s:/\[\]]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}$",
        description="host:port on one of the nodes; needed with several",
    )
    threads_per_rank: int | None = Field(default=None, ge=1, description="null: this machine's cores shared out")
    max_restarts: int = Field(
        default=0,
        ge=0,
        description="how often torchrun starts all ranks again after one has died; training goes on from its last "
        "checkpoint",
    )
    stage_timeout_seconds: float | None = Field(
        default=None, gt=0, description="a stage that takes longer fails; null: never"
    )
    stop_grace_seconds: float = Field(
        default=20.0,
        ge=0,
        description="what training that is asked to stop has for its last checkpoint; Prefect's cancellation gives 30",
    )

    @model_validator(mode="after")
    def _meets(self) -> Self:
        if self.num_nodes > 1 and self.rendezvous_endpoint is None:
            raise ValueError("rendezvous_endpoint: missing; with launch.num_nodes > 1 it is host:port on one of them")
        if self.num_nodes == 1 and self.rendezvous_endpoint is not None:
            raise ValueError("rendezvous_endpoint: one node meets no other; remove it, or set launch.num_nodes")
        return self

    @property
    def world_size(self) -> int:
        """Ranks on all nodes."""
        return self.num_ranks * self.num_nodes


def run(stage: str, record: type[A], request: Request, sink: Sink, config: Config) -> A:
    """Run `stage` as `python -m recsys_core` on `config`'s ranks and return the artifact that it leaves at its output.

    The request, the events and the log lie beside the output as `STAGE.request.json`, `.events.jsonl` and `.log`.

    Raises:
        Stopped: its processes received a signal to stop, and did so in good order.
        ValueError: the stage refused its input; the message is the stage's own.
        RuntimeError: a process of it failed; names the exit code and ends with the log's last lines, or is a `Fault`.
    """
    beside = request.output.parent / request.output.name
    log, events = beside.with_suffix(".log"), beside.with_suffix(".events.jsonl")
    asked = beside.with_suffix(".request.json")
    write_text(asked, request.model_dump_json(indent=2))
    events.unlink(missing_ok=True)
    fault_file(asked).unlink(missing_ok=True)
    arguments = ["-m", _MODULE, stage, "--request", str(asked), "--events", str(events)]
    starter = _starter(config, request.key)
    if config.num_nodes > 1:
        variables = ["env", *(f"{name}={value}" for name, value in _RESTARTING.items())] if config.max_restarts else []
        there = shlex.join([*variables, "python", *starter, *arguments])
        sink(Event(stage=stage, message=f"waiting for {config.num_nodes - 1} more nodes; on each of them run: {there}"))
    with log.open("w") as output:
        ranks = _Ranks([*starter, *arguments, "--watch-stdin"], environment(config, _reads(request)), output.fileno())
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
    return record.load(request.output)


def fault_file(request: Path) -> Path:
    """Return where the first rank that ends in a way that no code expected says how, by the file of its request."""
    return request.with_name(request.name.replace(".request.json", "") + ".fault.txt")


def exit_with_starter() -> None:
    """Wait for the end of standard input, whose other end the starter holds; the kernel closes it when that dies."""
    while os.read(0, 1024):
        pass
    os._exit(143)


def alone(config: Config) -> Config:
    """Return `config` for a stage that runs as one process, with all the threads that the ranks would have had."""
    threads = config.threads_per_rank and config.threads_per_rank * config.num_ranks
    one = {"num_ranks": 1, "num_nodes": 1, "rendezvous_endpoint": None, "max_restarts": 0}
    return config.model_copy(update=one | {"threads_per_rank": threads})


class _Ranks:
    """The started processes: torchrun and the ranks below it, or the only rank."""

    def __init__(self, command: list[str], environment: dict[str, str], output: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *command],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        self._seen: dict[int, psutil.Process] = {}

    def poll(self) -> int | None:
        """Return the exit code once the first process has ended, and remember the others while it lives."""
        exit_code = self.process.poll()
        if exit_code is None:
            try:
                for process in psutil.Process(self.process.pid).children(recursive=True):
                    self._seen.setdefault(process.pid, process)
            except psutil.NoSuchProcess:
                return self.process.wait()
        return exit_code

    def stop(self, grace_seconds: float) -> None:
        """End whatever still runs: politely, then by SIGKILL. Does nothing after a stage that ended by itself."""
        assert self.process.stdin is not None
        if self.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                # torchrun kills ranks that take longer than the grace, and needs a moment to see that they ended.
                self.process.wait(grace_seconds + _POLL_SECONDS)
        self.process.stdin.close()
        try:
            self.process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        _, alive = psutil.wait_procs(self._seen.values(), timeout=_GRACE_SECONDS)
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(alive)


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


def _follow(stage: str, ranks: _Ranks, tail: _Tail, config: Config) -> int | None:
    """Return the exit code; None of ranks that are to be stopped, as torchrun would start them again for nothing."""
    started, timeout_seconds = time.monotonic(), config.stage_timeout_seconds
    while (exit_code := ranks.poll()) is None and not (config.max_restarts and tail.has_ended):
        tail.forward()
        if timeout_seconds and time.monotonic() - started > timeout_seconds:
            raise RuntimeError(f"{stage}: not done after launch.stage_timeout_seconds = {timeout_seconds:g}; stopped")
        time.sleep(_POLL_SECONDS)
    tail.forward()
    if exit_code != 0 and tail.stopped:
        raise Stopped(f"{stage}: {tail.stopped}")
    if exit_code != 0 and tail.error:
        raise ValueError(tail.error)
    return exit_code


def _starter(config: Config, key: str) -> list[str]:
    """Return what comes before `-m recsys_core`; one process alone needs no torchrun, which takes seconds to start.

    Unless it is to be restarted.
    """
    if config.world_size == 1 and not config.max_restarts:
        return []
    torchrun = ["-m", "torch.distributed.run", f"--nproc-per-node={config.num_ranks}"]
    torchrun += [f"--max-restarts={config.max_restarts}"]
    torchrun += [f"--shutdown-timeout={math.ceil(config.stop_grace_seconds)}"]
    if config.num_nodes == 1:
        return [*torchrun, "--standalone"]
    return [
        *torchrun,
        f"--nnodes={config.num_nodes}",
        "--rdzv-backend=c10d",
        f"--rdzv-id={key}",
        f"--rdzv-endpoint={config.rendezvous_endpoint}",
    ]


def environment(config: Config, reads: Iterable[str] = ()) -> dict[str, str]:
    """Return the environment of a rank that computes on the CPU; what the user has set counts.

    Of credentials it has those alone by which the addresses in the texts `reads` are opened.
    """
    threads = config.threads_per_rank or max(1, len(os.sched_getaffinity(0)) // config.num_ranks)
    waiting = {} if "OMP_WAIT_POLICY" in os.environ else _WAITING
    restarting = _RESTARTING if config.max_restarts else {}
    given = without_credentials(os.environ, reads)
    return waiting | _KEEPING | given | restarting | {"OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}


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
