"""Requests with several interests: one list for each, of the best that any of its vectors finds.

Shapes: V vectors of all requests, J most interests of a request, B requests of one block, W width of a list.
"""

import numpy as np

from recsys_core.metrics.retrieval import NO_ITEM, Lists, keep_unseen
from recsys_core.retrieval.own_tables import Requests
from recsys_core.retrieval.vectors import Search


def by_request(search: Search, some: Requests, num_keep: int) -> Search:
    """Return a search of requests, whose masked lists hold `num_keep` items, of one of their vectors."""
    counts_Q = np.diff(some.offsets)
    if (counts_Q == 1).all():
        return search
    interests = Lists(np.arange(len(some.vectors)), some.offsets)

    def find(rows_B: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
        ids_VW, scores_VW = search.find(interests.take(rows_B).values, width)
        return merged(ids_VW, scores_VW, counts_Q[rows_B])

    return Search(find, tolerance(search.tolerance, some), counts_Q * (num_keep + some.seen.lengths))


def tolerance(of_vectors_V: np.ndarray, some: Requests) -> np.ndarray:
    """Return the tolerance of each request, whose items may come of any of its vectors."""
    return np.maximum.reduceat(of_vectors_V, some.offsets[:-1])


def merged(ids_VW: np.ndarray, scores_VW: np.ndarray, counts_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return one list for each request, ids and scores [B, W], of the lists of its interests, behind each other.

    An item's score is its best by any interest.
    """
    width = ids_VW.shape[1]
    inside_BJ = np.arange(counts_B.max()) < counts_B[:, None]
    ids = np.full((*inside_BJ.shape, width), NO_ITEM, np.int64)
    scores = np.full((*inside_BJ.shape, width), -np.inf, np.float32)
    ids[inside_BJ], scores[inside_BJ] = ids_VW, scores_VW
    ids, scores = ids.reshape(len(ids), -1), scores.reshape(len(ids), -1)
    order = np.argsort(-scores, axis=1, kind="stable")
    ids, scores = np.take_along_axis(ids, order, axis=1), np.take_along_axis(scores, order, axis=1)
    # Of equal ids the first has the best score, and a stable sort keeps it there.
    by_id = np.argsort(ids, axis=1, kind="stable")
    sorted_ids = np.take_along_axis(ids, by_id, axis=1)
    again = np.zeros(ids.shape, bool)
    np.put_along_axis(again, by_id[:, 1:], sorted_ids[:, 1:] == sorted_ids[:, :-1], axis=1)
    ids[again] = NO_ITEM
    nothing = Lists(np.empty(0, np.int64), np.zeros(len(ids) + 1, np.int64))
    return keep_unseen(ids, scores, nothing, width)
