"""A process that has imported what a group of stages needs, and forks a rank for each one that the launcher asks for.

A rank begins in the process as it is after the imports, so no stage finds what another has left: seeds, threads, groups
of processes, names of scripted classes, memory. The process itself does nothing but wait, and ends as a rank has ended
that did not end well: with its exit code, or by its signal.
"""

import contextlib
import ctypes
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from recsys_core.launch.kept import DONE, Asked
from recsys_core.variables import STAGE_NUMBER

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG


def serve(name: str, do: Callable[[str, Path, Path], int]) -> int:
    """Fork a rank for each stage that the launcher asks for at the socket `name`, until it hangs up.

    Returns, in a rank, the exit code of `do`, which takes a stage, its request and the file for its events; and in the
    process itself that of the rank that did not end well, or 0.
    """
    with socket.socket(socket.AF_UNIX) as launcher:
        launcher.connect(f"\0{name}")
        for number, line in enumerate(launcher.makefile("r", encoding="utf-8")):
            asked = Asked.model_validate_json(line)
            # Until its handlers are set, a signal to stop is for neither.
            signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
            own = os.getpid()
            if not (rank := os.fork()):
                launcher.close()
                _become_rank(asked, number, own)
                return do(asked.stage, Path(asked.request), Path(asked.events))
            code, received = _end_of(rank)
            if code > 0:
                return code
            if code < 0:
                _end_by(-code)
            launcher.sendall(DONE)
            if received:
                # The rank had done the stage by then, but another one is not begun.
                _end_by(received[0])
    return 0


def _become_rank(asked: Asked, number: int, parent: int) -> None:
    """Make the process what it would be if it had been started for this stage alone, the `number`th of its parent."""
    # torchrun sends its signals to the parent's whole group: the rank would get each of them twice.
    os.setpgid(0, 0)
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    log = os.open(asked.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    for output in (1, 2):
        os.dup2(log, output)
    os.close(log)
    sys.argv = [sys.argv[0], asked.stage, "--request", asked.request, "--events", asked.events, "--watch-stdin"]
    for variable, value in (asked.variables | {STAGE_NUMBER: str(number)}).items():
        if value is None:
            os.environ.pop(variable, None)
        else:
            os.environ[variable] = value


def _end_of(rank: int) -> tuple[int, list[int]]:
    """Hand signals to stop on to the rank and wait for its end; return its exit code, and the signals."""
    received: list[int] = []

    def hand_on(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        with contextlib.suppress(ProcessLookupError):
            os.kill(rank, number)

    before = {number: signal.signal(number, hand_on) for number in _SIGNALS}
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    _, status = os.waitpid(rank, 0)
    for number, handler in before.items():
        signal.signal(number, handler)
    return os.waitstatus_to_exitcode(status), received


def _end_by(number: int) -> None:
    # One dump of the core is enough.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if number != signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
