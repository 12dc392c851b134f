"""Samples what each Python process below `day.py` is doing, which puts this folder on PYTHONPATH.

The main thread's stack is looked at every few milliseconds. `$DAYLINE_SAMPLES/PID` gets the process's arguments, and
then a line `TIME WHAT` for each change, seconds since 1970; it is written at once, as ranks end without notice.
"""

import os
import sys
import threading
import time
from types import FrameType

_PERIOD_SECONDS = 0.005
_LIBRARIES = (("/mlflow/", "MLflow"), ("/prefect/", "Prefect"), ("/flows/server.py", "Prefect"))
_OURS = ("/recsys_core/", "/tasks/", "/flows/")
# Its main thread waits for another process.
_WAITING = ("/recsys_core/launch/", "/recsys_core/stage_loop.py", "/subprocess.py")


def _what(frame: FrameType | None) -> str:
    """Return what the innermost frame that says it is about; functions of Dayline that call no library are its work."""
    found = ""
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith("<frozen importlib"):
            return "import"
        for part, what in _LIBRARIES:
            found = found or (what if part in name else "")
        if any(part in name for part in _WAITING):
            found = found or "wait"
        if frame.f_code.co_name != "<module>" and any(part in name for part in _OURS):
            return found or "work"
        frame = frame.f_back
    return found or "start"


def _sample(file: int, main: int) -> None:
    before = ""
    while True:
        now = time.time()
        what = _what(sys._current_frames().get(main))  # noqa: SLF001 - there is no other way to another thread's stack
        if what != before:
            os.write(file, f"{now:.3f} {what}\n".encode())
            before = what
        time.sleep(_PERIOD_SECONDS)


def _start(folder: str) -> None:
    file = os.open(f"{folder}/{os.getpid()}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.write(file, f"{sys.orig_argv}\n".encode())
    threading.Thread(target=_sample, args=(file, threading.main_thread().ident), daemon=True, name="sampling").start()


if folder := os.environ.get("DAYLINE_SAMPLES"):
    _start(folder)
    # Ranks are forked, and have none of their parent's threads.
    os.register_at_fork(after_in_child=lambda: _start(folder))
