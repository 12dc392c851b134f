"""The log of requests: a share of them with their answers, as Parquet by hour, written aside and renamed.

Requests and answers are JSON as they went over the wire: a log outlives the releases whose columns it has.
"""

import datetime
import hashlib
import itertools
import os
import queue
import random
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from recsys_core.artifacts import Frozen

SCHEMA = pa.schema(
    {
        "time": pa.timestamp("us", "UTC"),
        "path": pa.string(),
        "version": pa.string(),
        "request": pa.string(),
        "answer": pa.string(),
        "seconds": pa.float32(),
        # Columns of the request that are not as they were sent: a replay is not asked what the service was.
        "changed": pa.list_(pa.string()),
        # The client's header X-Request-Id, or one that the service made: what clicks name a request by.
        "request_id": pa.string(),
    }
)
SINCE_LATER = frozenset({"request_id"})
"""Columns that logs of before do not have."""
_MAX_WAITING = 10_000
_DIGEST_BYTES = 8


class Options(Frozen):
    """What is logged. `drop` and `hash` name columns of users and items, wherever they stand in a request."""

    folder: Path
    share: float = Field(gt=0, le=1)
    drop: tuple[str, ...] = ()
    hash: tuple[str, ...] = ()
    flush_seconds: float = Field(default=60, gt=0)
    flush_rows: int = Field(default=5_000, ge=1)


class Record(NamedTuple):
    """One answered request."""

    time: datetime.datetime
    path: str
    version: str
    request: Mapping[str, Any]
    answer: bytes
    seconds: float
    request_id: str


class Recorder:
    """Writes in a thread of its own. Where it cannot keep up, records are left out and counted."""

    def __init__(self, options: Options, seed: int | None = None) -> None:
        """Draw requests by `seed`."""
        self._options, self._random = options, random.Random(seed)
        self._waiting: queue.Queue[Record | None] = queue.Queue(_MAX_WAITING)
        self._numbers = itertools.count()
        self.num_left_out = 0
        self._thread = threading.Thread(target=self._work, name="request-log", daemon=True)
        self._thread.start()

    def offer(
        self, path: str, version: str, request: Mapping[str, Any], answer: bytes, seconds: float, request_id: str
    ) -> None:
        """Take a request, if it is drawn; it takes no time of the answer's."""
        if self._random.random() >= self._options.share:
            return
        try:
            now = datetime.datetime.now(datetime.UTC)
            self._waiting.put_nowait(Record(now, path, version, request, answer, seconds, request_id))
        except queue.Full:
            self.num_left_out += 1

    def close(self) -> None:
        """Write what waits."""
        self._waiting.put(None)
        self._thread.join()

    def _work(self) -> None:
        rows: list[Record] = []
        until = 0.0
        while True:
            try:
                record = self._waiting.get(timeout=max(0.0, until - time.monotonic()) if rows else None)
            except queue.Empty:
                self._write(rows)
                rows = []
                continue
            if rows and (record is None or _hour(record) != _hour(rows[0])):
                self._write(rows)
                rows = []
            if record is None:
                return
            if not rows:
                until = time.monotonic() + self._options.flush_seconds
            rows.append(record)
            if len(rows) >= self._options.flush_rows:
                self._write(rows)
                rows = []

    def _write(self, rows: list[Record]) -> None:
        day, hour = _hour(rows[0])
        folder = self._options.folder / f"date={day}" / f"hour={hour:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{rows[0].time:%M%S%f}-{os.getpid()}-{next(self._numbers)}.parquet"
        pq.write_table(pa.Table.from_pylist([self._row(one) for one in rows], SCHEMA), folder / f".{name}.partial")
        (folder / f".{name}.partial").rename(folder / name)

    def _row(self, record: Record) -> dict[str, Any]:
        changed: set[str] = set()
        request = self._veiled(record.request, changed)
        text = orjson.dumps(request).decode()
        return record._asdict() | {"request": text, "answer": record.answer.decode(), "changed": sorted(changed)}

    def _veiled(self, value: Any, changed: set[str]) -> Any:
        if isinstance(value, list):
            return [self._veiled(one, changed) for one in value]
        if not isinstance(value, Mapping):
            return value
        found = {}
        for name, one in value.items():
            if one is not None and name in self._options.drop:
                changed.add(name)
                found[name] = None
            elif one is not None and name in self._options.hash:
                changed.add(name)
                found[name] = hashed(one)
            else:
                found[name] = self._veiled(one, changed)
        return found


def hashed(value: Any) -> Any:
    """Return another value for a value, always the same; of lists entry by entry. What is common can be guessed."""
    if isinstance(value, list):
        return [None if one is None else hashed(one) for one in value]
    digest = hashlib.blake2b(repr(value).encode(), digest_size=_DIGEST_BYTES)
    return int.from_bytes(digest.digest()) >> 1 if isinstance(value, int) else digest.hexdigest()


def _hour(record: Record) -> tuple[datetime.date, int]:
    return record.time.date(), record.time.hour
