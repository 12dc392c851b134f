"""The processes of a stage: how they are started, seen to end, and stopped."""

import contextlib
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import psutil

from recsys_core.launch import fork_server
from recsys_core.launch.config import Config
from recsys_core.variables import without_credentials

MODULE = "recsys_core"
GRACE_SECONDS = 10.0
POLL_SECONDS = 0.2
# Threads that go to sleep at once between a step's many short loops cost a fifth of it on idle cores; threads that spin
# for long cost more than half of it where a server or another stage needs one of the cores. These spin for some 10 µs.
_WAITING = {"GOMP_SPINCOUNT": "1000"}
# A step allocates and frees the same hundreds of megabytes as the last one. glibc would give each large block back to
# the kernel and get it again page by page, zeroed: half the time of a step with attention over sequences.
_KEEPING = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40)}
# oneDNN and torch each keep what was compiled for a product of matrices, of 1,024 sizes. Where each batch has sizes of
# its own (packed sequences), that grows to gigabytes. What torch keeps is made again at once, and a product of float32
# too; one of bfloat16 takes milliseconds, so that oneDNN keeps more than a step has (SASRec's, between 128 and 256).
_COMPILED = {"LRU_CACHE_CAPACITY": "32", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "256"}
# torchrun keeps one store for all restarts, where ranks would find the addresses of those before them. With this the
# first rank opens a new store each time.
RESTARTING = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}


class Ranks:
    """The started processes: torchrun and the ranks below it, or the only rank."""

    is_queued = False

    def __init__(
        self, command: list[str], environment: dict[str, str], output: int, forking: list[str] | None = None
    ) -> None:
        """Start `python COMMAND`; `forking` is the command of a fork server that does it sooner, if one may be kept."""
        forked = None if forking is None else _forked(forking, command, environment, output)
        self.process = forked or subprocess.Popen(
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
        if exit_code is None and self.process.pid is not None:
            try:
                for process in psutil.Process(self.process.pid).children(recursive=True):
                    self._seen.setdefault(process.pid, process)
            except psutil.NoSuchProcess:
                return self.process.wait()
        return exit_code

    def wait(self, seconds: float) -> None:
        """Wait before `poll` is worth a call again."""
        time.sleep(seconds)

    def stop(self, grace_seconds: float) -> None:
        """End whatever still runs: politely, then by SIGKILL. Does nothing after a stage that ended by itself."""
        assert self.process.stdin is not None
        if self.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                # torchrun kills ranks that take longer than the grace, and needs a moment to see that they ended.
                self.process.wait(grace_seconds + POLL_SECONDS)
        self.process.stdin.close()
        try:
            self.process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        _, alive = psutil.wait_procs(self._seen.values(), timeout=GRACE_SECONDS)
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(alive)


def _forked(
    forking: list[str], command: list[str], environment: dict[str, str], output: int
) -> fork_server.Forked | None:
    if not fork_server.keep_seconds():
        return None
    given, written = os.pipe()
    try:
        streams = (given, output, output)
        forked = fork_server.fork(forking[-1], forking, command, environment, streams, stdin=written)
    finally:
        os.close(given)
    if forked is None:
        os.close(written)
    return forked


def stage_arguments(stage: str, request: Path, events: Path, module: str | None = None) -> list[str]:
    """Return what starts a rank of a stage, after `python` or what `starter` returns."""
    return ["-m", module or MODULE, stage, "--request", str(request), "--events", str(events)]


def starter(config: Config, meeting: Sequence[str] = ()) -> list[str]:
    """Return what comes before `-m recsys_core`; one process alone needs no torchrun, which takes seconds to start.

    Unless it is to be restarted. `meeting` are torchrun's options by which several nodes find each other.
    """
    if config.world_size == 1 and not config.max_restarts:
        return []
    torchrun = ["-m", "torch.distributed.run", f"--nproc-per-node={config.num_ranks}"]
    torchrun += [f"--max-restarts={config.max_restarts}"]
    torchrun += [f"--shutdown-timeout={math.ceil(config.stop_grace_seconds)}"]
    if config.num_nodes == 1:
        return [*torchrun, "--standalone"]
    return [*torchrun, f"--nnodes={config.num_nodes}", "--rdzv-backend=c10d", *meeting]


def environment(config: Config, reads: Iterable[str] = ()) -> dict[str, str]:
    """Return the environment of a rank that computes on the CPU; what the user has set counts.

    Of credentials it has those alone by which the addresses in the texts `reads` are opened.
    """
    threads = config.threads_per_rank or max(1, len(os.sched_getaffinity(0)) // config.num_ranks)
    waiting = {} if "OMP_WAIT_POLICY" in os.environ else _WAITING
    restarting = RESTARTING if config.max_restarts else {}
    given = without_credentials(os.environ, reads)
    kept = _KEEPING | _COMPILED
    return waiting | kept | given | restarting | {"OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
