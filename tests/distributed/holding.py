"""`python -m recsys_core` whose stage waits where a test disturbs it, however long that takes the test.

The file `hold` beside the output holds what the stage waits at, as JSON: the number of a `step`, or how much is `done`.
Once the event of that or of more is written, the rank that wrote it waits until the file is gone, or a signal has
arrived.
"""

import json
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
            while _is_held(event, hold):
                if select.select([arrived], [], [], _POLL_SECONDS)[0]:
                    return

        return emit

    module: Any = progress
    module.to_file = to_file
    return stages.main()


def _is_held(event: progress.Event, hold: Path) -> bool:
    try:
        wanted = json.loads(hold.read_text())
    except FileNotFoundError:
        return False
    return any((getattr(event, name) or 0) >= least for name, least in wanted.items())


if __name__ == "__main__":
    stages._end(main())
