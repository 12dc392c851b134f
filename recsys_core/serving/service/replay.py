"""A log of requests, asked again of a release: what comes out otherwise, and how long it takes."""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from recsys_core import integrity, uri
from recsys_core.artifacts import Frozen
from recsys_core.serving.service.live import Endpoint, Served
from recsys_core.serving.service.recorder import SCHEMA, SINCE_LATER

ANY_K = 1_000_000
_BATCH = 32
_PATH, _REQUEST, _ANSWER = "path", "request", "answer"


class Report(Frozen):
    """What a replay found, by path or of all.

    `identical`: answers that are the same to the last bit, of requests that are as they were sent. `changed`: requests
    of which the log has dropped or hashed columns; their answers are in all other figures. `refused`: requests that do
    not fit the release. `missing`: those of paths that it does not answer. `overlap`: the mean share of the
    logged items that come again; `first`: how often the first one stays first; `max_difference`: of the scores of items
    that are in both. `logged_seconds` are of the log's answers, `replayed_seconds` of one request of a batch now.
    """

    num_requests: int
    identical: int
    changed: int
    refused: int
    missing: int
    overlap: float | None
    first: float | None
    max_difference: float | None
    logged_seconds: dict[str, float]
    replayed_seconds: float


class Replayed(Frozen):
    """The report of a log: the release it was asked of, those that the log is of, and figures by path."""

    release: str
    logged: dict[str, int]
    total: Report
    paths: dict[str, Report]
    example: str | None


class _Tally:
    """Counts of one path."""

    def __init__(self) -> None:
        self.counts = dict.fromkeys(("num_requests", "identical", "changed", "refused", "missing"), 0)
        self.overlaps: list[float] = []
        self.firsts: list[bool] = []
        self.differences: list[float] = []
        self.logged: list[float] = []
        self.seconds = 0.0

    def report(self) -> Report:
        quantiles = {"p50": 0.5, "p99": 0.99} if self.logged else {}
        answered = self.counts["num_requests"] - self.counts["missing"] - self.counts["refused"]
        return Report(
            **self.counts,
            overlap=float(np.mean(self.overlaps)) if self.overlaps else None,
            first=float(np.mean(self.firsts)) if self.firsts else None,
            max_difference=max(self.differences, default=None),
            logged_seconds={name: float(np.quantile(self.logged, share)) for name, share in quantiles.items()},
            replayed_seconds=self.seconds / max(1, answered),
        )

    def add(self, other: "_Tally") -> None:
        for name in self.counts:
            self.counts[name] += other.counts[name]
        self.overlaps += other.overlaps
        self.firsts += other.firsts
        self.differences += other.differences
        self.logged += other.logged
        self.seconds += other.seconds


def read(log: str, most: int | None = None) -> Iterator[dict[str, Any]]:
    """Yield the log's rows, in the order of its files; `log` is its folder, a part of it, or a file: a path as of data.

    Raises:
        ValueError: there is none, or it is no log of requests.
    """
    left = most
    for location in sorted(uri.resolve(log), key=lambda one: one.path):
        for row in opened(location).read().to_pylist():
            if left is not None and left <= 0:
                return
            left = None if left is None else left - 1
            yield row


def opened(location: uri.Location) -> pq.ParquetFile:
    """Open a file of a log.

    Raises:
        ValueError: it is none.
    """
    try:
        file = pq.ParquetFile(location.filesystem.open(location.path))
    except (OSError, pa.ArrowInvalid) as error:
        raise ValueError(f"{location.path}: cannot be read ({integrity.first_line(error)})") from None
    if missing := [name for name in SCHEMA.names if name not in {*file.schema_arrow.names, *SINCE_LATER}]:
        raise ValueError(f"{location.path}: no log of requests, it has no column {missing[0]!r}")
    return file


def replay(served: Served, rows: Iterator[Mapping[str, Any]]) -> Replayed:
    """Ask a release for the rows of a log, and compare."""
    tallies: dict[str, _Tally] = {}
    logged: dict[str, int] = {}
    example: str | None = None
    for path, batch in _batches(rows):
        tally = tallies.setdefault(path, _Tally())
        tally.counts["num_requests"] += len(batch)
        for row in batch:
            logged[row["version"]] = logged.get(row["version"], 0) + 1
        if (endpoint := served.endpoints.get(path)) is None:
            tally.counts["missing"] += len(batch)
            continue
        requests = [orjson.loads(row[_REQUEST]) for row in batch]
        fitting = [place for place, request in enumerate(requests) if endpoint.fits(request)]
        started = time.perf_counter()
        answers = _answers(endpoint, [requests[place] for place in fitting])
        tally.seconds += time.perf_counter() - started
        for place, answer in zip(fitting, answers, strict=True):
            if answer is None:
                continue
            said = _compared(tally, batch[place], answer)
            example = example or said
        tally.counts["refused"] += len(batch) - sum(answer is not None for answer in answers)
    total = _Tally()
    for one in tallies.values():
        total.add(one)
    paths = {path: one.report() for path, one in tallies.items()}
    return Replayed(release=served.tag, logged=logged, total=total.report(), paths=paths, example=example)


def _batches(rows: Iterator[Mapping[str, Any]]) -> Iterator[tuple[str, list[Mapping[str, Any]]]]:
    waiting: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        batch = waiting.setdefault(row[_PATH], [])
        batch.append(row)
        if len(batch) == _BATCH:
            yield row[_PATH], waiting.pop(row[_PATH])
    yield from waiting.items()


def _answers(endpoint: Endpoint, requests: Sequence[Mapping[str, Any]]) -> list[bytes | None]:
    """Return an answer for each request, None for one that the features refuse."""
    if not requests:
        return []
    try:
        return [*endpoint.answers(requests)]
    except ValueError:
        if len(requests) == 1:
            return [None]
    return [answer for request in requests for answer in _answers(endpoint, [request])]


def _compared(tally: _Tally, row: Mapping[str, Any], answer: bytes) -> str | None:
    """Count how an answer compares; return a line on one that differs though its request is the same."""
    before, now = orjson.loads(row[_ANSWER]), orjson.loads(answer)
    tally.logged.append(row["seconds"])
    versions = before.pop("version"), now.pop("version")
    is_same = before == now
    tally.counts["identical"] += is_same and not row["changed"]
    tally.counts["changed"] += bool(row["changed"])
    if "item_ids" in before:
        known = dict(zip(before["item_ids"], before["scores"], strict=True))
        both = [
            (known[item], score) for item, score in zip(now["item_ids"], now["scores"], strict=True) if item in known
        ]
        tally.overlaps.append(len(both) / max(1, len(known)))
        tally.firsts.append(before["item_ids"][:1] == now["item_ids"][:1])
        tally.differences += [abs(a - b) for a, b in both]
    else:
        tally.differences += _differences(before, now)
    if is_same or row["changed"]:
        return None
    return f"{row[_PATH]} at {row['time']}: {versions[0]} and {versions[1]} differ"


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[float]:
    found = []
    for name, values in before.items():
        numbers = [value for value in values if isinstance(value, float)]
        others = now.get(name)
        if isinstance(others, list) and len(others) == len(values) == len(numbers) and numbers:
            found.append(float(np.abs(np.subtract(values, others)).max()))
    return found
