"""Requests are answered together, each with its own answer, and none waits without end."""

import asyncio
import threading
from types import SimpleNamespace

import pytest

from recsys_core.serving.service import Limits, batching
from recsys_core.serving.service.batching import Batcher


def _run(limits: Limits, ask) -> list[int]:
    """Run `ask(batcher)` in a loop; return the sizes of the batches."""
    sizes: list[int] = []
    batcher = Batcher(limits, lambda size, seconds: sizes.append(size))

    async def main() -> None:
        batcher.start(asyncio.get_running_loop())
        await ask(batcher)
        await asyncio.to_thread(batcher.close)

    asyncio.run(main())
    return sizes


def test_what_came_meanwhile_is_answered_together_and_of_one_release():
    hold = threading.Event()

    def answers(release):
        def answer(requests):
            assert hold.wait(600)
            if any(request == "bad" for request in requests):
                raise ValueError("bad is not answered")
            return [f"{release} {request}".encode() for request in requests]

        return answer

    old, new = answers("old"), answers("new")

    async def ask(batcher):
        first = asyncio.create_task(batcher.answer(old, "0"))
        while not batcher.num_held or batcher._waiting:
            await asyncio.sleep(0)
        asked = [(old, "1"), (old, "bad"), (old, "2"), (new, "3"), (new, "4"), (new, "5"), (new, "6"), (old, "7")]
        tasks = [asyncio.create_task(batcher.answer(*one)) for one in asked]
        await asyncio.sleep(0)
        assert (batcher.num_held, batcher.is_full) == (9, True)
        hold.set()
        assert await first == b"old 0"
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert str(found.pop(1)) == "bad is not answered"
        assert found == [b"old 1", b"old 2", b"new 3", b"new 4", b"new 5", b"new 6", b"old 7"]
        assert (batcher.num_held, batcher.is_full) == (0, False)

    assert _run(Limits(max_batch=3, max_concurrency=9, request_seconds=600), ask) == [1, 3, 3, 1, 1]


def test_a_request_that_waited_for_too_long_is_given_up_and_never_worked_out(monkeypatch):
    hold, worked_out, limits = threading.Event(), [], []

    def timeout(seconds):
        assert seconds == 600
        limits.append(asyncio.timeout(None))
        return limits[-1]

    # The time is over when the test says so.
    monkeypatch.setattr(batching, "asyncio", SimpleNamespace(timeout=timeout))

    def answer(requests):
        assert hold.wait(600)
        worked_out.extend(requests)
        return [b"" for _ in requests]

    async def ask(batcher):
        first = asyncio.create_task(batcher.answer(answer, "first"))
        while not batcher.num_held or batcher._waiting:
            await asyncio.sleep(0)
        second = asyncio.create_task(batcher.answer(answer, "second"))
        await asyncio.sleep(0)
        for limit in limits:
            limit.reschedule(0)
        for task in (first, second):
            with pytest.raises(TimeoutError):
                await task
        hold.set()

    _run(Limits(max_batch=1, request_seconds=600), ask)
    assert worked_out == ["first"]


def test_a_batch_waits_for_others_as_long_as_it_is_told_to():
    async def ask(batcher):
        tasks = []
        for number in range(3):
            tasks.append(asyncio.create_task(batcher.answer(answer, number)))
            await asyncio.sleep(0)
        await asyncio.gather(*tasks)

    def answer(requests):
        return [b"" for _ in requests]

    # Full before the wait is over.
    limits = Limits(max_batch=3, request_seconds=600).model_copy(update={"batch_wait_ms": 600_000})
    assert _run(limits, ask) == [3]
