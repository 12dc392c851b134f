"""Work that threads do ahead of their consumer, in order."""

import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar, cast

T = TypeVar("T")
R = TypeVar("R")
_MAX_THREADS = 4


def half_of_the_cores() -> int:
    """Return how many threads read, and how many encode, where the config does not say."""
    return max(1, min(_MAX_THREADS, len(os.sched_getaffinity(0)) // 2))


def prefetch(
    items: Iterator[T], work: Callable[[T], R] | None = None, *, num_threads: int = 1, depth: int = 4
) -> Generator[R, None, None]:
    """Yield what `work` makes of each of `items` (None: the items themselves), in order, made ahead by threads.

    Up to `depth` are made ahead. Threads take turns to get the next item, and work at the same time. What either
    raises is raised here.
    """
    end, turn = object(), threading.Lock()
    ahead: deque[Future[Any]] = deque()
    unmade: deque[Future[Any]] = deque()
    pool = ThreadPoolExecutor(num_threads, thread_name_prefix="prefetch")

    def submit() -> None:
        result: Future[Any] = Future()
        ahead.append(result)
        unmade.append(result)
        pool.submit(make)

    def make() -> None:
        with turn:
            # The thread that has the turn takes the first free place with the next item, so that they stay in order.
            result = unmade.popleft()
            try:
                item = next(items, end)
            except BaseException as error:  # noqa: BLE001 - raised where the result is asked for
                result.set_exception(error)
                return
        try:
            result.set_result(item if item is end or work is None else work(cast("T", item)))
        except BaseException as error:  # noqa: BLE001 - likewise
            result.set_exception(error)

    try:
        for _ in range(depth):
            submit()
        while (made := ahead.popleft().result()) is not end:
            submit()
            yield made
    finally:
        pool.shutdown(cancel_futures=True)
