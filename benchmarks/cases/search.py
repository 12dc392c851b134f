"""The hit rate of tables, as `dayline hit-rate` measures it: against bare FAISS, and how fast details are written.

FAISS and torch share no process: each case is measured in one of its own.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

DIM, K = 64, 200
_TRUTH = 3
_FEW = 5_000  # requests of a first row, which comes within minutes
_AT_ONCE = 16_384  # FAISS itself takes 4,096 at a time
_SAID_EVERY_SECONDS = 10


def hit_rate(folder: Path, arguments: argparse.Namespace) -> list[dict[str, Any]]:  # noqa: ARG001 - as other cases
    """Return requests per second of a core: tables to figures, and FAISS's flat search of vectors in memory."""
    return _apart("hit_rate", arguments.items, arguments.requests)


def details(folder: Path, arguments: argparse.Namespace) -> list[dict[str, Any]]:  # noqa: ARG001 - as other cases
    """Return how many requests' lists are written per second of a core, with ids that are numbers and texts."""
    return _apart("details", arguments.items, arguments.requests)


def _apart(case: str, num_items: int, num_requests: int) -> list[dict[str, Any]]:
    command = [sys.executable, __file__, case, str(num_items), str(num_requests)]
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(ended.stdout)


def _vectors(rng: np.random.Generator, num_rows: int) -> np.ndarray:
    rows = rng.normal(size=(num_rows, DIM)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _column(vectors: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])


def _seconds(work: Callable[[], Any]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


class _Said:
    """Says on stderr how far a phase is: once in some seconds, and at its end."""

    def __init__(self, phase: str) -> None:
        self._phase, self._started, self._next = phase, time.monotonic(), time.monotonic() + _SAID_EVERY_SECONDS

    def far(self, done: int, total: int | None) -> None:
        now = time.monotonic()
        if now >= self._next or done == total:
            self._next = now + _SAID_EVERY_SECONDS
            print(f"{self._phase}: {done:,} of {total or 0:,}, {now - self._started:.0f} s", file=sys.stderr)


def _measure_hit_rate(folder: Path, num_items: int, num_requests: int) -> list[dict[str, Any]]:
    sizes = sorted({min(_FEW, num_requests), num_requests})
    return [row for size in sizes for row in _against_bare(folder, num_items, size)]


def _against_bare(folder: Path, num_items: int, num_requests: int) -> list[dict[str, Any]]:
    import faiss

    from recsys_core.progress import Event
    from recsys_core.retrieval.hit_rate import of_tables
    from recsys_core.retrieval.own_tables import ItemTable, RequestTable

    rng = np.random.default_rng(0)
    items, queries = _vectors(rng, num_items), _vectors(rng, num_requests)
    size = f"{num_requests:,} x {num_items:,}"
    truth = rng.integers(num_items - _TRUTH, size=(num_requests, 1)) + np.arange(_TRUTH)
    pq.write_table(pa.table({"item_id": np.arange(num_items), "embedding": _column(items)}), folder / "items.parquet")
    requests = pa.table({"request_id": np.arange(num_requests), "gt_items": list(truth), "embedding": _column(queries)})
    pq.write_table(requests, folder / "requests.parquet")
    request = of_tables.Request(
        items=ItemTable(path=str(folder / "items.parquet")),
        requests=RequestTable(path=str(folder / "requests.parquet")),
        ks=(20, 50, K),
    )
    with_details = request.model_copy(update={"details": str(folder / f"details-{num_requests}")})

    def bare() -> None:
        said = _Said(f"bare, {size}")
        index = faiss.IndexFlatIP(DIM)
        index.add(items)
        for start in range(0, num_requests, _AT_ONCE):
            index.search(queries[start : start + _AT_ONCE], K)
            said.far(min(start + _AT_ONCE, num_requests), num_requests)

    def measure(asked: of_tables.Request, called: str) -> dict[str, Any]:
        said = _Said(f"{called}, {size}")

        def receive(event: Event) -> None:
            if event.stage == "hit rate":
                said.far(event.done, event.total)

        return _row(f"{called}, {size}", num_requests / _seconds(lambda: of_tables.run(asked, receive)), reference)

    reference = num_requests / _seconds(bare)
    return [measure(request, "figures"), measure(with_details, "figures and details")]


def _measure_details(folder: Path, num_items: int, num_requests: int) -> list[dict[str, Any]]:
    from recsys_core.metrics.retrieval import NOT_FOUND, Lists
    from recsys_core.retrieval.hit_rate import of_tables
    from recsys_core.retrieval.hit_rate.contenders import Block
    from recsys_core.retrieval.own_tables import ItemTable, Requests, RequestTable

    rng = np.random.default_rng(0)
    ids_QK = rng.integers(num_items, size=(num_requests, K + 1))
    scores_QK = -np.sort(-rng.random(ids_QK.shape, np.float32), axis=1)
    offsets = np.arange(num_requests + 1)
    truth = Lists(rng.integers(num_items, size=_TRUTH * num_requests), _TRUTH * offsets)
    nothing = Lists(np.empty(0, np.int64), np.zeros(num_requests + 1, np.int64))
    requests = pa.table({"request_id": np.arange(num_requests)})
    pq.write_table(requests, folder / "requests.parquet")
    some = Requests(requests["request_id"].combine_chunks(), np.empty((0, DIM)), offsets, truth, nothing)
    none_found = np.full(len(truth.values), NOT_FOUND, np.int32)

    def write(name: str, ids: pa.Array) -> None:
        request = of_tables.Request(
            items=ItemTable(path=""),
            requests=RequestTable(path=str(folder / "requests.parquet")),
            ks=(20, 50, K),
            details=str(folder / name),
        )
        with of_tables.details(request, ids) as made:
            assert made is not None
            made.begin(some)(Block(np.arange(num_requests), ids_QK, scores_QK, np.empty(0)))
            made.end(some, none_found)

    numbers = pa.array(np.arange(num_items))
    texts = pa.array(np.char.mod("item_%d", np.arange(num_items)))
    return [
        _row("details, ids are numbers", num_requests / _seconds(lambda: write("numbers", numbers)), None),
        _row("details, ids are texts", num_requests / _seconds(lambda: write("texts", texts)), None),
    ]


def _row(figure: str, value: float, reference: float | None) -> dict[str, Any]:
    found = {"case": "hit rate", "figure": figure, "value": value, "unit": "1/s of a core"}
    return found | {"reference": reference, "ratio": None if reference is None else value / reference}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as aside:
        measure = {"hit_rate": _measure_hit_rate, "details": _measure_details}[sys.argv[1]]
        json.dump(measure(Path(aside), int(sys.argv[2]), int(sys.argv[3])), sys.stdout)
