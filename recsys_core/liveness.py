"""Whether the process that did something still lives, by a file that it holds, whatever its host and number are.

A lock of the kernel shows it on one machine, in containers too, at once. Not every shared file system hands locks on to
other machines: there the file also has to have been silent for a while, as its holder touches it every few seconds.
"""

import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

_TOUCH_SECONDS = 10.0
SILENT_SECONDS = 180.0
_TRIES, _PAUSE_SECONDS = 10, 0.05
_BOOT = Path("/proc/sys/kernel/random/boot_id")

_held: set[Path] = set()
_guard = threading.Lock()


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold `path` until the block or the process ends, however that ends.

    Raises:
        BlockingIOError: another process holds it; the message is that one's number.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        # A process that only looks whether it is held locks it for a moment, too.
        for _ in range(_TRIES):
            if _locked(file):
                break
            time.sleep(_PAUSE_SECONDS)
        else:
            file.seek(0)
            raise BlockingIOError(file.read().partition(" ")[0] or "unknown")
        file.truncate(0)
        file.write(f"{os.getpid()} {_boot()}")
        file.flush()
        with _touched(path):
            yield


def is_dead(path: Path) -> bool:
    """Whether a process held `path` and is gone for certain: not where there is no such file."""
    try:
        file = path.open()
    except FileNotFoundError:
        return False
    with file:
        if not _locked(file):
            return False
        same_boot = file.read().partition(" ")[2] == _boot()
        return same_boot or _seconds_silent(path) > SILENT_SECONDS


def _locked(file: TextIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _seconds_silent(path: Path) -> float:
    # By the clock of the file system: those of two machines differ.
    probe = path.with_name(f".{path.name}.{os.getpid()}")
    probe.touch()
    try:
        return probe.stat().st_mtime - path.stat().st_mtime
    finally:
        probe.unlink()


def _boot() -> str:
    """Return what all processes on this kernel have in common, and no others."""
    return _BOOT.read_text().strip()


@contextlib.contextmanager
def _touched(path: Path) -> Iterator[None]:
    with _guard:
        if not _held:
            _held.add(path)
            threading.Thread(target=_touch, daemon=True, name="liveness").start()
        _held.add(path)
    try:
        yield
    finally:
        with _guard:
            _held.discard(path)


def _touch() -> None:
    pause = threading.Event()
    while True:
        with _guard:
            if not _held:
                return
            for path in _held:
                # A run whose folder was deleted needs no sign of life.
                with contextlib.suppress(OSError):
                    os.utime(path)
        pause.wait(_TOUCH_SECONDS)
