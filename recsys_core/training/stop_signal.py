"""How a training is asked to stop, and the step at which all its ranks do.

torchrun passes SIGTERM and SIGINT on to its ranks, and each receives them at a moment of its own; a signal may also be
meant for one rank alone. So the ranks ask each other every so often, and all get the same answer at the same step. They
ask over the CPU, without waiting for a GPU, and often enough that a stop is answered within seconds.
"""

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

import torch

from recsys_core.distributed import World

_LATEST_SECONDS = 3.0
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextlib.contextmanager
def signals() -> Iterator[threading.Event]:
    """Inside, SIGTERM and SIGINT end nothing but set the event. Outside the main thread none arrive."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    before = {number: signal.signal(number, on_signal) for number in _SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Agreement:
    """Asks all ranks whether one of them is to stop; all of them must ask at the same steps, as `is_due` says."""

    def __init__(self, world: World, stop: threading.Event, step: int, *, every_steps: int) -> None:
        """`step` is the last one that was made; ask every `every_steps` steps, or sooner where steps take long."""
        self._world, self._stop, self._every = world, stop, every_steps
        self._asked, self._due = step, step + 1
        self._since = time.monotonic()

    def is_due(self, step: int) -> bool:
        """Whether to ask after `step`."""
        return step >= self._due or step % self._every == 0

    def ask(self, step: int) -> bool:
        """Return whether to stop after `step`; every rank calls this and gets the same answer."""
        now = time.monotonic()
        mine = torch.tensor([float(self._stop.is_set()), now - self._since], dtype=torch.float64)
        num_stopping, seconds = self._world.sum(mine).tolist()
        seconds_per_step = seconds / self._world.num_ranks / max(1, step - self._asked)
        self._due = step + int(min(self._every, max(1.0, _LATEST_SECONDS / max(seconds_per_step, 1e-9))))
        self._asked, self._since = step, now
        return num_stopping > 0
