"""Work on all cores in one process, for functions that let go of Python's lock."""

import collections
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def in_order(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Yield `function(item)` of each item, in order.

    As many items as there are cores are worked on at once, and one more has been taken, so that memory holds no more.
    """
    num_threads, running = len(os.sched_getaffinity(0)), collections.deque[Future[R]]()
    with ThreadPoolExecutor(num_threads) as pool:
        try:
            for item in items:
                running.append(pool.submit(function, item))
                if len(running) > num_threads:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            for future in running:
                future.cancel()
