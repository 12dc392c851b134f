"""The stage `replay`: requests that a service has logged, answered by a bundle and by the live release in one process.

FAISS and torch share it, as they do in the service.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import orjson
from pydantic import ValidationError

from recsys_core import artifacts, uri
from recsys_core.artifacts import ReplayedLog
from recsys_core.progress import Event, Sink
from recsys_core.serving.service import Limits, replay
from recsys_core.serving.service.live import RANK, RECOMMEND, RELEASE, Endpoint, Live, Served
from recsys_core.serving.service.sources import Fetched

_EVERY = 100  # requests, between two events


class Request(artifacts.Request):
    """What a replay needs. `files` are the log's newest, by address and version, which hold the newest `num_requests`.

    `bundle` is what is to be released, and `bundle_digest` stands for its content; `champion` is the live release.
    """

    UNKEYED: ClassVar[frozenset[str]] = artifacts.Request.UNKEYED | {"bundle", "champion"}

    log: str
    files: tuple[tuple[str, str], ...]
    num_requests: int
    bundle: Path
    bundle_digest: str
    champion: Fetched | None
    champion_digest: str | None


class _Answered(NamedTuple):
    """An answer and the CPU time it took, or why there is none."""

    answer: dict[str, Any] | None
    seconds: float = 0.0
    refusal: str = ""


class _Counts:
    """What a replay has seen so far."""

    def __init__(self) -> None:
        self.num_rows = self.unanswered = 0
        self.refusal: str | None = None
        self.changed: list[bool] = []
        self.overlaps: list[float] = []
        self.seconds: tuple[list[float], list[float]] = ([], [])


def newest(log: str, num_requests: int) -> tuple[tuple[str, str], ...]:
    """Return a log's newest files, newest first, that together hold `num_requests`; an absent log has none.

    Raises:
        ValueError: a file is none of a log.
    """
    found: list[tuple[str, str]] = []
    left = num_requests
    for location in sorted(uri.resolve(log, may_be_absent=True), key=lambda one: one.path, reverse=True):
        if left <= 0:
            break
        left -= replay.opened(location).metadata.num_rows
        found.append((uri.address(location), uri.version(location)))
    return tuple(found)


def run(request: Request, sink: Sink) -> ReplayedLog:
    """Answer each request by both, one at a time and in turns.

    Raises:
        ValueError: a bundle cannot be served, or a file is no log.
    """
    counts, champion = _Counts(), request.champion
    if request.files:
        import torch

        torch.set_num_threads(1)
        candidate = _served(Fetched("the new model", "", request.bundle))
        live = None if champion is None else _of_champion(champion)
        rows = [*_rows(request)]
        for number, row in enumerate(rows, start=1):
            if (endpoint := candidate.endpoints.get(row["path"])) is not None:
                _count(counts, endpoint, live and live.endpoints.get(row["path"]), row, number)
            if number % _EVERY == 0 or number == len(rows):
                sink(Event(stage="replay", done=number, total=len(rows), unit="requests"))
    with artifacts.pending(request.output) as aside:
        return aside.commit(
            ReplayedLog,
            request,
            num_rows=counts.num_rows,
            log=request.log,
            champion=None if champion is None else champion.tag,
            unanswered=counts.unanswered,
            refusal=counts.refusal,
            compared=len(counts.changed),
            changed=_mean(counts.changed),
            overlap=_mean(counts.overlaps),
            seconds=_median(counts.seconds[0]),
            champion_seconds=_median(counts.seconds[1]),
        )


def _served(release: Fetched) -> Served:
    live = Live(Limits(max_k=replay.ANY_K), [RELEASE])
    served = live.put({RELEASE: release})
    assert served is not None, "its one place is filled"
    return served


def _of_champion(champion: Fetched) -> Served:
    try:
        return _served(champion)
    except ValueError as error:
        raise ValueError(
            f"the live release cannot be asked: {error}; --set gate.replay=null publishes once without a replay"
        ) from None


def _rows(request: Request) -> Iterator[Mapping[str, Any]]:
    """Yield the newest rows, the newest file first and each file's rows in their order."""
    left = request.num_requests
    for location in uri.reopen(tuple(address for address, _ in request.files)):
        table = replay.opened(location).read()
        table = table.slice(max(0, table.num_rows - left))
        left -= table.num_rows
        yield from table.to_pylist()


def _count(counts: _Counts, endpoint: Endpoint, live: Endpoint | None, row: Mapping[str, Any], number: int) -> None:
    asked = orjson.loads(row["request"])
    counts.num_rows += 1
    if live is None:
        now, before = _ask(endpoint, asked), None
    elif number % 2:
        now, before = _ask(endpoint, asked), _ask(live, asked)
    else:
        before, now = _ask(live, asked), _ask(endpoint, asked)
    if now.answer is None:
        if before is None or before.answer is not None:
            counts.unanswered += 1
            counts.refusal = counts.refusal or f"{row['path']}: {now.refusal}"
        return
    if before is None or before.answer is None:
        counts.seconds[0].append(now.seconds)
        return
    counts.seconds[0].append(now.seconds)
    counts.seconds[1].append(before.seconds)
    if row["path"] == RECOMMEND:
        ids, others = before.answer["item_ids"], now.answer["item_ids"]
        if ids:
            counts.changed.append(ids[:1] != others[:1])
            counts.overlaps.append(len({*ids} & {*others}) / len(ids))
    elif row["path"] == RANK and (best := _best(before.answer)) is not None:
        counts.changed.append(best != _best(now.answer))


def _ask(endpoint: Endpoint, request: Any) -> _Answered:
    try:
        endpoint.shape.model.__pydantic_validator__.validate_python(request)
        started = time.thread_time()
        (answer,) = endpoint.answers([request])
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        return _Answered(None, refusal=f"{'.'.join(map(str, first['loc']))}: {first['msg']}")
    except ValueError as error:
        return _Answered(None, refusal=str(error))
    return _Answered(orjson.loads(answer), time.thread_time() - started)


def _best(answer: Mapping[str, Any]) -> int | None:
    """Return which of the given items has the highest first score; None where there is nothing to choose."""
    scores = next((values for values in answer.values() if isinstance(values, list)), [])
    return int(np.argmax(scores)) if len(scores) > 1 and isinstance(scores[0], float) else None


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _median(values: Sequence[float]) -> float | None:
    return float(np.median(values)) if values else None
