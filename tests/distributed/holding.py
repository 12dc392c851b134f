"""`python -m recsys_core` whose training waits where a test disturbs it, however long that takes the test.

The file `hold` beside the stage's output holds the number of a step. Once the event of that step or a later one is
written, the rank that wrote it waits until the file is gone, or a signal has arrived.
"""

import select
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from recsys_core import __main__ as stages
from recsys_core import progress

_POLL_SECONDS = 0.01


def main() -> int:
    """Run the stage as `recsys_core` does; return its exit code."""
    real = progress.to_file
    arrived, written = socket.socketpair()
    written.setblocking(False)  # noqa: FBT003 - it has no name
    signal.set_wakeup_fd(written.fileno(), warn_on_full_buffer=False)

    def to_file(path: Path) -> Callable[[progress.Event], None]:
        append, hold = real(path), path.with_name("hold")

        def emit(event: progress.Event) -> None:
            append(event)
            while event.step is not None and event.step >= _step(hold):
                if select.select([arrived], [], [], _POLL_SECONDS)[0]:
                    return

        return emit

    module: Any = progress
    module.to_file = to_file
    return stages.main()


def _step(hold: Path) -> float:
    try:
        return int(hold.read_text())
    except FileNotFoundError:
        return float("inf")


if __name__ == "__main__":
    stages._end(main())
