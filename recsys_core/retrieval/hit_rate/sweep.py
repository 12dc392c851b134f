"""What an index finds as it searches more: ANN recall and hit rate by its search parameter, on some of the queries.

A query is searched again only where it is open what the index would find: some kinds know from which value on a query
is answered with its exact list.

Shapes: S queries of the sweep, K lengths of lists, W items of an exact list with its witness.
"""

from typing import NamedTuple

import numpy as np

from recsys_core.indexes import Index
from recsys_core.metrics.retrieval import Cut, Ranked
from recsys_core.retrieval.hit_rate.contenders import Day, Held, by_index

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
    index: Index,
    held: Held,
    chosen: tuple[int, ...] | None,
    exact: Exact,
    found: Found,
) -> dict:
    """Return the figures at each value that is `chosen` (None: powers of two). A flat index has none.

    `few` is the day of the sweep's queries, `held` the items' vectors, `found` what the index finds as it is stored.
    """
    if index.parameter is None:
        return {"kind": kind, "parameter": None, "num_queries": len(few.queries.users), "points": []}
    exact_from_S = index.exact_from(few.queries.vectors, exact.lists)
    points = []
    for value in index.values() if chosen is None else chosen:
        open_S = np.arange(len(few.queries.users))
        if exact_from_S is not None:
            open_S = np.flatnonzero(exact_from_S > value)
        ranked, recalls = found if value == index.value else _find(few, open_S, index, value, held, exact)
        points.append({"value": value, "ann_recall": few.means(recalls), "hit_rate": ranked.metrics(few.ks).hit_rate})
    return {"kind": kind, "parameter": index.parameter, "num_queries": len(few.queries.users), "points": points}


def _find(few: Day, rows: np.ndarray, index: Index, value: int, held: Held, exact: Exact) -> Found:
    """Search for the queries `rows`; the others find what exact search finds."""
    ranks_N, recalls_SK = exact.ranked.ranks.copy(), np.ones((len(few.queries.users), len(few.ks)))
    if len(rows):
        part = few.take(rows)
        search = by_index(index, held, part.queries.vectors, value)
        tally, recalls_SK[rows] = part.compare(search, Cut(exact.cut.scores[rows], exact.cut.counts[rows]), "sweep")
        ranks_N[few.queries.truth.positions(rows)] = tally.ranks_N
    return Ranked(few.queries.truth, ranks_N), recalls_SK
