"""Faults of our own: the traceback goes into a file, and the user gets one line that names it."""

import contextlib
import errno
import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile
import time
import traceback
from pathlib import Path

from recsys_core.redaction import redact

# What a command exits with then: BSD's EX_SOFTWARE.
EXIT_CODE = 70
_LIBRARIES = ("dayline", "torch", "torchrec", "faiss-cpu", "mlflow", "prefect", "pyarrow", "pydantic")
_SHOWN = 200  # characters of an error, which may hold what was sent
_FULL = (errno.ENOSPC, errno.EDQUOT)
_FULL_WORDS = ("No space left on device", "Disk quota exceeded", "database or disk is full")


class Fault(RuntimeError):  # noqa: N818 - of ours, and no kind of error
    """An exception that no code expected; the message names the file that its traceback is in."""


def temporary_file() -> Path:
    """Return where a process that has no run's folder writes its fault."""
    return Path(tempfile.gettempdir()) / f"dayline-fault-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"


def write(error: BaseException, path: Path) -> str:
    """Write the traceback and the versions to `path`, credentials left out; return the line for the user.

    The line has the beginning of what the error says, the file all of it.

    A file that is there stays: of several ranks the first to fail is the one to look at.
    """
    first = (str(error).splitlines() or [""])[0]
    message = redact(f"{type(error).__name__}: {first}" if first else type(error).__name__)
    message = message if len(message) <= _SHOWN else f"{message[:_SHOWN]}…"
    lines = [
        f"command: {' '.join(sys.argv)}",
        f"versions: {versions()}",
        "",
        *traceback.format_exception(error),
    ]
    try:
        with contextlib.suppress(FileExistsError), open(path, "x", opener=_private) as file:
            file.write(redact("\n".join(lines)))
    except OSError as failed:
        return f"a fault of Dayline, which cannot be written to {path} ({failed.strerror}): {message}"
    return f"a fault of Dayline, written to {path}: {message}"


def versions() -> str:
    """Return what is installed, as `dayline 0.1.0, Python 3.11.9, torch 2.13.0, …`."""
    found: list[str] = []
    for name in _LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{name} {importlib.metadata.version(name)}")
    return ", ".join([*found[:1], f"Python {platform.python_version()}", *found[1:]])


def is_full_disk(error: BaseException) -> bool:
    """Whether a disk without space is what `error` says, in whatever library's words, or what it was raised from."""
    is_said = any(words in str(error) for words in _FULL_WORDS)
    is_said = is_said or (isinstance(error, OSError) and error.errno in _FULL)
    return is_said or (error.__cause__ is not None and is_full_disk(error.__cause__))


def place_of(error: OSError) -> str:
    """Return which file an error of the system is about, or an empty text; of a copy it is the new one."""
    if isinstance(error, shutil.Error) and error.args and isinstance(error.args[0], list) and error.args[0]:
        return str(error.args[0][0][1])
    return str(error.filename2 or error.filename or "")


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
