"""What an index finds as it searches more: ANN recall and hit rate by its search parameter, on some of the queries.

A query is searched again only where it is open what the index would find. Of vectors in cells, an index ranks exactly
those in the cells that it visits, so that a query whose exact list lies in these is answered with that list:

    cells, the closest to the query first     0     1     2  |  3     4
    items of its exact list                   a b         c  |             from nprobe 3 on, the list is the exact one

Shapes: S queries of the sweep, K lengths of lists, W items of an exact list with its witness.
"""

from typing import NamedTuple

import faiss
import numpy as np

from recsys_core.metrics.retrieval import NO_ITEM, Cut, Ranked
from recsys_core.retrieval.hit_rate.contenders import Day, by_index

_PARAMETERS = {"ivf_flat": "nprobe", "hnsw": "ef_search"}

Found = tuple[Ranked, np.ndarray]
"""What a search finds for the queries of the sweep, and its ANN recall, float64 [S, K]."""


class Exact(NamedTuple):
    """What exact search finds for the queries of the sweep. lists: int64 [S, W], masked, padded with -1."""

    ranked: Ranked
    cut: Cut
    lists: np.ndarray


def rows_of(num_sweep_queries: int, num_queries: int) -> np.ndarray:
    """int64 [S]: the queries of the sweep, evenly spaced."""
    return np.unique(np.linspace(0, num_queries - 1, min(num_sweep_queries, num_queries)).astype(np.int64))


def sweep(
    few: Day,
    kind: str,
    index: faiss.Index,
    items_ID: np.ndarray,
    chosen: tuple[int, ...] | None,
    exact: Exact,
    found: Found,
) -> dict:
    """Return the figures at each value that is `chosen` (None: powers of two). A flat index has none.

    `few` is the day of the sweep's queries, `found` is what the index finds as it is stored.
    """
    if kind not in _PARAMETERS:
        return {"kind": kind, "parameter": None, "num_queries": len(few.queries.users), "points": []}
    holder, name = (index, "nprobe") if kind == "ivf_flat" else (index.hnsw, "efSearch")
    stored = getattr(holder, name)
    asked_S = np.full(len(few.queries.users), np.iinfo(np.int64).max)
    if kind == "ivf_flat":
        asked_S = _cells_needed(index, few.queries.vectors, exact.lists)
    points = []
    for value in _values(index, kind) if chosen is None else chosen:
        setattr(holder, name, value)
        ranked, recalls = (
            found if value == stored else _find(few, np.flatnonzero(asked_S > value), index, items_ID, exact)
        )
        points.append({"value": value, "ann_recall": few.means(recalls), "hit_rate": ranked.metrics(few.ks).hit_rate})
    return {"kind": kind, "parameter": _PARAMETERS[kind], "num_queries": len(few.queries.users), "points": points}


def _values(index: faiss.Index, kind: str) -> tuple[int, ...]:
    if kind == "hnsw":
        return tuple(16 << power for power in range(7))
    return (*(1 << power for power in range((index.nlist - 1).bit_length())), index.nlist)


def _find(few: Day, rows: np.ndarray, index: faiss.Index, items_ID: np.ndarray, exact: Exact) -> Found:
    """Search for the queries `rows`; the others find what exact search finds."""
    ranks_N, recalls_SK = exact.ranked.ranks.copy(), np.ones((len(few.queries.users), len(few.ks)))
    if len(rows):
        part = few.take(rows)
        search = by_index(index, items_ID, part.queries.vectors)
        tally, recalls_SK[rows] = part.compare(search, Cut(exact.cut.scores[rows], exact.cut.counts[rows]), "sweep")
        ranks_N[few.queries.truth.positions(rows)] = tally.ranks_N
    return Ranked(few.queries.truth, ranks_N), recalls_SK


def _cells_needed(index: faiss.IndexIVF, queries_SD: np.ndarray, lists_SW: np.ndarray) -> np.ndarray:
    """int64 [S]: how many cells are visited when the whole exact list has been; more than all if an item is in none."""
    cell_I = np.full(int(lists_SW.max()) + 1, index.nlist)
    for cell in range(index.nlist):
        if size := index.invlists.list_size(cell):
            ids = faiss.rev_swig_ptr(index.invlists.get_ids(cell), size)
            cell_I[ids[ids < len(cell_I)]] = cell
    _, cells_SC = index.quantizer.search(queries_SD, index.nlist)
    place_SC = np.full((len(queries_SD), index.nlist + 1), index.nlist)
    np.put_along_axis(place_SC, cells_SC, np.arange(index.nlist)[None], axis=1)
    place_SW = np.take_along_axis(place_SC, cell_I[lists_SW], axis=1)
    return np.where(lists_SW == NO_ITEM, 0, place_SW + 1).max(axis=1)
