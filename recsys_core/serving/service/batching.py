"""Requests answered together: what came while the last ones were answered, up to a number, with or without a wait.

A request that is refused or fails takes none of its batch with it: each is then answered alone.
"""

import asyncio
import collections
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from recsys_core.serving.service.limits import Limits
from recsys_core.serving.service.operations import Request

_Answered = list[bytes | Exception]
Answers = Callable[[Sequence[Request]], list[bytes]]


class Job:
    """One request that was taken in. `answers` is what answers requests of its kind, by one and the same release."""

    __slots__ = ("answers", "future", "is_given_up", "request")

    def __init__(self, answers: Answers, request: Request, future: "asyncio.Future[bytes]") -> None:
        """`future` is of the loop that the batcher was started in."""
        self.answers, self.request, self.future = answers, request, future
        self.is_given_up = False


class Batcher:
    """Answers requests in a thread of its own, which holds all work of torch and FAISS."""

    def __init__(self, limits: Limits, on_batch: Callable[[int, float], None]) -> None:
        """`on_batch` gets how many requests a batch had, and how many seconds it took."""
        self._limits, self._on_batch = limits, on_batch
        self._waiting: collections.deque[Job] = collections.deque()
        self._changed = threading.Condition()
        self._num_held = 0
        self._is_closed = False
        self._thread = threading.Thread(target=self._work, name="answers", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to answer, with the futures of `loop`."""
        self._loop = loop
        self._thread.start()

    def close(self) -> None:
        """End once everything that waits has been answered."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join()

    @property
    def num_held(self) -> int:
        """How many requests wait or are being answered."""
        return self._num_held

    @property
    def is_full(self) -> bool:
        """Whether there is no place for another request."""
        return self._num_held >= self._limits.max_concurrency

    async def answer(self, answers: Answers, request: Request) -> bytes:
        """Return the answer to a request; called in the loop, and not when it `is_full`.

        Raises:
            ValueError: the request does not fit.
            TimeoutError: it has waited for too long.
        """
        assert self._loop is not None
        job = Job(answers, request, self._loop.create_future())
        self._num_held += 1
        with self._changed:
            self._waiting.append(job)
            self._changed.notify()
        try:
            async with asyncio.timeout(self._limits.request_seconds):
                return await job.future
        finally:
            # Whether it was answered, or its client is gone: nothing is worked out for no one.
            job.is_given_up = True
            self._num_held -= 1

    def _work(self) -> None:
        while (batch := self._next()) is not None:
            if not batch:
                continue
            started = time.perf_counter()
            outcomes = _outcomes(batch)
            self._on_batch(len(batch), time.perf_counter() - started)
            assert self._loop is not None
            self._loop.call_soon_threadsafe(_deliver, batch, outcomes)
            # While this thread waits it must not keep alive a release that was swapped out.
            del batch, outcomes

    def _next(self) -> list[Job] | None:
        """Wait for requests; return those that go together, in the order in which they came. None at the end."""
        with self._changed:
            while not self._waiting:
                if self._is_closed:
                    return None
                self._changed.wait()
            until = time.monotonic() + self._limits.batch_wait_ms / 1_000
            while len(self._waiting) < self._limits.max_batch and (left := until - time.monotonic()) > 0:
                self._changed.wait(left)
            batch: list[Job] = []
            while self._waiting and len(batch) < self._limits.max_batch:
                if batch and self._waiting[0].answers is not batch[0].answers:
                    break
                job = self._waiting.popleft()
                if not job.is_given_up:
                    batch.append(job)
            return batch


def _outcomes(batch: list[Job]) -> _Answered:
    answers = batch[0].answers
    try:
        return [*answers([job.request for job in batch])]
    except Exception as error:  # noqa: BLE001 - it is the request's, and handed on to it
        if len(batch) == 1:
            return [error]
    return [outcome for job in batch for outcome in _outcomes([job])]


def _deliver(batch: list[Job], outcomes: Sequence[Any]) -> None:
    for job, outcome in zip(batch, outcomes, strict=True):
        if job.future.done():
            continue
        if isinstance(outcome, Exception):
            job.future.set_exception(outcome)
        else:
            job.future.set_result(outcome)
