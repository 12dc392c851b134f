"""Exact lists of requests, by processes of which each holds a share of the items; see `Lists` for what they make.

A process needs nothing of the others. For each request it leaves the best of its own items on disk, without those that
the request has seen, and the best of all items are the best of these lists. A process that is killed leaves nothing;
those that were done before it are not searched again.

Shapes: Q requests, D dimensions, W width of a list.
"""

import tempfile
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from recsys_core import artifacts, readers, variables
from recsys_core.artifacts import ShareOfLists
from recsys_core.indexes import Metric, flat
from recsys_core.metrics.retrieval import NO_ITEM
from recsys_core.progress import Event, Sink
from recsys_core.retrieval import own_tables, vectors
from recsys_core.retrieval.hit_rate import interests
from recsys_core.retrieval.hit_rate.contenders import Held, exact, tolerance
from recsys_core.retrieval.own_tables import ItemTable, Requests, RequestTable
from recsys_core.retrieval.vectors import Search

# Products of tiles of so many items are what FAISS makes: in shares of whole ones, scores are those of one process.
_TILE = 1_024
# The process itself with its libraries, and a block of requests that is searched with all that comes of it.
_FIXED_BYTES, _SEARCH_BYTES = 300 << 20, 300 << 20
_ID_BYTES, _SCORE_BYTES = 8, 4
_GB = 1e9


class Request(artifacts.Request):
    """Lists of `width` items for every request; with `memory_bytes` a process takes at most about that much memory."""

    items: ItemTable
    requests: RequestTable
    fingerprints: dict[str, dict[str, str]]
    width: int
    metric: Metric
    num_shares: int
    memory_bytes: int | None = None

    @classmethod
    def of(cls, items: ItemTable, requests: RequestTable, num_processes: int, output: Path, **others: Any) -> Self:
        """Return the request for `output`; there are no more shares than they have tiles.

        Raises:
            ValueError: a table is not there, or has no rows.
        """
        num_items = own_tables.num_rows(items.path, [items.id_column, items.vector_column])
        tables = {"items": items.path, "requests": requests.path}
        return cls(
            items=items,
            requests=requests,
            fingerprints={name: readers.fingerprint(path) for name, path in tables.items()},
            num_shares=len(shares(num_items, num_processes)),
            output=output,
            config_hash="",
            code_version=artifacts.code_version(),
            **others,
        )


def shares(num_items: int, num_processes: int) -> list[range]:
    """Return the rows of the items that each process has, as many for each as for the others, in whole tiles."""
    num_rows = -(-num_items // (num_processes * _TILE)) * _TILE
    return [range(start, min(start + num_rows, num_items)) for start in range(0, num_items, num_rows)]


class Plan(NamedTuple):
    """What a process takes: `memory_bytes` of memory at most, with its vectors in it or in a file that is mapped."""

    is_mapped: bool
    memory_bytes: int


def plan(request: Request, share: range, dim: int, id_bytes: int, most_rows: int) -> Plan:
    """Plan for the items `share`, whose ids take `id_bytes`; tables are read `most_rows` rows at once, or fewer.

    Raises:
        ValueError: `request.memory_bytes` are too few; says how many are needed.
    """
    vector_bytes = 4 * dim
    requests = own_tables.CHUNK_ROWS * (3 * vector_bytes + 2 * request.width * (_ID_BYTES + _SCORE_BYTES))
    # Ids are held with a table by which they are looked up; what is read is converted.
    fixed = _FIXED_BYTES + 4 * id_bytes + max(3 * most_rows * vector_bytes, _SEARCH_BYTES + requests)
    copied = min(len(share), flat.ITEMS_AT_ONCE) * vector_bytes
    held = fixed + len(share) * vector_bytes + (copied if request.metric == "cosine" else 0)
    mapped = fixed + 2 * copied
    if request.memory_bytes is None or held <= request.memory_bytes:
        return Plan(is_mapped=False, memory_bytes=held)
    if mapped <= request.memory_bytes:
        return Plan(is_mapped=True, memory_bytes=mapped)
    raise ValueError(
        f"to search {len(share):,} items of {dim} dimensions takes a process at least {min(mapped, held) / _GB:.2f} GB "
        f"of memory, and {request.memory_bytes / _GB:.2f} GB are allowed; allow more, or name more processes"
    )


def run(request: Request, sink: Sink) -> None:
    """Leave this process's lists, `share-N` in the output's folder; a process for which there are no items has none.

    Raises:
        ValueError: a table that cannot be searched, see `own_tables`, or too little memory for it.
    """
    rank, _ = variables.rank()
    if rank >= request.num_shares or _whole(request, rank) is not None:
        return
    event_sink: Sink = sink if rank == 0 else lambda event: None  # noqa: ARG005
    num_items, dim, id_bytes = own_tables.shape(request.items)
    share = shares(num_items, request.num_shares)[rank]
    planned = plan(request, share, dim, id_bytes * len(share) // num_items, own_tables.most_rows(request.items))
    total = own_tables.num_rows(request.requests.path, [request.requests.id_column])
    where = "in a file" if planned.is_mapped else "in memory"
    message = (
        f"plan: {request.num_shares} process(es), each with {len(share):,} of {num_items:,} items {where}, "
        f"at most {planned.memory_bytes / _GB:.2f} GB of memory, {_disk_bytes(request, total) / _GB:.2f} GB of disk "
        "for the lists of all"
    )
    event_sink(Event(stage="search", total=total, message=message))
    request.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".vectors-", dir=request.output) as place:
        items = own_tables.read_items(
            request.items,
            event_sink,
            allow_zero=request.metric == "l2",
            unique=False,
            aside=Path(place) / "vectors" if planned.is_mapped else None,
            share=share,
        )
        held = Held.of(items.vectors)
        with artifacts.pending(_folder(request, rank)) as aside:
            num_rows = _search(request, items, held, aside.path, total, event_sink)
            aside.commit(
                ShareOfLists,
                request,
                num_rows=num_rows,
                first_item=share.start,
                num_items=len(share),
                embedding_dim=dim,
                longest=float(held.longest),
            )


def _search(request: Request, items: vectors.Items, held: Held, folder: Path, total: int, sink: Sink) -> int:
    done, dim = 0, items.vectors.shape[1]
    with (folder / "ids").open("wb") as ids_file, (folder / "scores").open("wb") as scores_file:
        for some in own_tables.read_requests(request.requests, items.ids, dim, allow_zero=request.metric == "l2"):
            ids_QW = np.empty((len(some.ids), request.width), np.int64)
            scores_QW = np.empty(ids_QW.shape, np.float32)
            search = interests.by_request(exact(held, some.vectors, request.metric), some, request.width)
            for rows, ids, scores in vectors.masked_lists(search, some.seen, len(items.ids), request.width):
                ids_QW[rows], scores_QW[rows] = ids, scores
                done += len(rows)
                sink(Event(stage="search", done=done, total=total))
            ids_QW.tofile(ids_file)
            scores_QW.tofile(scores_file)
    return done


def _disk_bytes(request: Request, num_requests: int) -> int:
    return num_requests * request.width * request.num_shares * (_ID_BYTES + _SCORE_BYTES)


def _folder(request: Request, number: int) -> Path:
    return request.output / f"share-{number:05d}"


def _whole(request: Request, number: int) -> ShareOfLists | None:
    """Return what a process has left, if it has been done."""
    if not _folder(request, number).exists():
        return None
    found = ShareOfLists.load(_folder(request, number))
    return found if found.key == request.key else None


class Lists:
    """The lists over all items, of those of every share."""

    def __init__(self, request: Request) -> None:
        """Look for what processes have left for `request`."""
        self._request = request
        found = [_whole(request, number) for number in range(request.num_shares)]
        self._found = [one for one in found if one is not None]
        assert len(self._found) == len(found), "every process has ended well"
        self.dim = self._found[0].embedding_dim
        self._longest = np.float32(max(one.longest for one in self._found))
        self._done = 0

    def search(self, some: Requests) -> Search:
        """Return the search of the next requests, whose seen items are masked in it."""
        num_requests, width = len(some.ids), self._request.width
        shape, at = (num_requests, width), self._done * width
        self._done += num_requests

        def of_share(one: ShareOfLists) -> tuple[np.ndarray, np.ndarray]:
            ids = np.fromfile(one.path / "ids", np.int64, num_requests * width, offset=at * _ID_BYTES).reshape(shape)
            ids[ids != NO_ITEM] += one.first_item
            scores = np.fromfile(one.path / "scores", np.float32, num_requests * width, offset=at * _SCORE_BYTES)
            return scores.reshape(shape), ids

        scores_QW, ids_QW = flat.best(map(of_share, self._found), num_requests, width, self._request.metric)
        equal = interests.tolerance(tolerance(self._longest, some.vectors, self._request.metric), some)
        return Search(lambda rows, _: (ids_QW[rows], scores_QW[rows]), equal)
