"""Faults on demand: what a service may do to a request, and the tests of a client must see."""

import threading
from collections import Counter
from typing import Literal

from pydantic import Field

from recsys_core.artifacts import Frozen

Operation = Literal[
    "metadata",
    "sql",
    "open_read",
    "get_read",
    "read",
    "open_write",
    "get_write",
    "write",
    "commit",
    "tunnel_open_read",
    "tunnel_get_read",
    "tunnel_read",
    "tunnel_open_write",
    "tunnel_get_write",
    "tunnel_write",
    "tunnel_commit",
]


class Fault(Frozen):
    """One kind of trouble for the next `times` requests of one operation.

    - `status`: the request is not done; `status` is answered (403 as NoPermission, 401 as Unauthorized).
    - `expired`: the request is not done; the keys are said to have expired.
    - `reset`: the request is not done, and the connection is cut without an answer.
    - `lost`: the request is done, and the connection is cut without an answer.
    - `short`: a read stream ends after `after` batches, with a proper end of HTTP and no end of Arrow.
    - `cut`: a read stream's connection is cut inside the batch that follows `after` others.
    - `truncated`: as `cut`, but HTTP ends properly.
    - `wait`: a session answers that it is not ready yet.
    - `gone`: the session that is asked for is said not to exist (any more).
    - `state`: a session answers the state `text`.
    """

    kind: Literal["status", "expired", "reset", "lost", "short", "cut", "truncated", "wait", "gone", "state"]
    operation: Operation
    times: int = Field(default=1, ge=1)
    skip: int = Field(default=0, ge=0, description="requests of the operation that pass before")
    status: int = 503
    after: int = Field(default=0, ge=0, description="batches")
    text: str = "EXPIRED"


class Faults:
    """The faults to come, and how often each operation was asked for; safe to use from any thread."""

    def __init__(self) -> None:
        """Start without faults."""
        self._lock = threading.Lock()
        self._pending: list[list] = []
        self.requests: Counter[str] = Counter()

    def add(self, *faults: Fault) -> None:
        """Take up `faults`; those of one operation happen one after the other."""
        with self._lock:
            self._pending += [[fault, fault.skip, fault.times] for fault in faults]

    def clear(self) -> None:
        """Forget all faults and counts."""
        with self._lock:
            self._pending.clear()
            self.requests.clear()

    def next(self, operation: str) -> Fault | None:
        """Count one request of `operation` and return what is to befall it."""
        with self._lock:
            self.requests[operation] += 1
            for entry in self._pending:
                fault, skip, _ = entry
                if fault.operation != operation:
                    continue
                if skip:
                    entry[1] -= 1
                    return None
                entry[2] -= 1
                if not entry[2]:
                    self._pending.remove(entry)
                return fault
        return None
