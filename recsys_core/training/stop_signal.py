"""How a training is told to stop, and the step at which all its ranks do.

torchrun hands SIGTERM and SIGINT on to its ranks, each of which hears them at a moment of its own, or alone if only
that rank was meant. So the ranks ask each other every so often, and all get the same answer at the same step. They ask
over the CPU, which no GPU has to be waited for, and often enough that somebody who waits is heard within seconds.
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
    """Inside, SIGTERM and SIGINT end nothing but set the event. Outside the main thread there are none to hear."""
    told = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield told
        return

    def tell(_number: int, _frame: FrameType | None) -> None:
        told.set()

    before = {number: signal.signal(number, tell) for number in _SIGNALS}
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Agreement:
    """Asks all ranks whether one of them was told to stop; all of them must ask at the same steps, as `is_due` says."""

    def __init__(self, here: World, told: threading.Event, step: int, *, every_steps: int) -> None:
        """`step` is the last one that was made; ask every `every_steps` steps, or sooner where steps take long."""
        self._here, self._told, self._every = here, told, every_steps
        self._asked, self._due = step, step + 1
        self._since = time.monotonic()

    def is_due(self, step: int) -> bool:
        """Whether to ask after `step`."""
        return step >= self._due or step % self._every == 0

    def ask(self, step: int) -> bool:
        """Return whether to stop after `step`; every rank calls this and gets the same answer."""
        now = time.monotonic()
        mine = torch.tensor([float(self._told.is_set()), now - self._since], dtype=torch.float64)
        num_told, seconds = self._here.sum(mine).tolist()
        seconds_per_step = seconds / self._here.num_ranks / max(1, step - self._asked)
        self._due = step + int(min(self._every, max(1.0, _LATEST_SECONDS / max(seconds_per_step, 1e-9))))
        self._asked, self._since = step, now
        return num_told > 0
