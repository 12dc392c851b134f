"""One day's question, put in the same way to all contenders: a model, its index, a baseline, the champion."""

from collections.abc import Callable
from typing import NamedTuple

import faiss
import numpy as np
import pyarrow as pa
from scipy import sparse

from recsys_core.artifacts import Embeddings
from recsys_core.indexes import Index, Metric, flat
from recsys_core.metrics.retrieval import NO_TIES, ROUNDING, Cut, Lists, Tally, ann_recall
from recsys_core.retrieval import recall, vectors
from recsys_core.retrieval.baselines import ItemToItem, Popularity
from recsys_core.retrieval.ease import Ease
from recsys_core.retrieval.vectors import Queries, Search


class Block(NamedTuple):
    """Answers to some queries. rows [B]; ids and scores [B, max(ks) + 1], masked lists; hits [B, number of ks]."""

    rows: np.ndarray
    ids: np.ndarray
    scores: np.ndarray
    hits: np.ndarray


Observe = Callable[[Block], None]


class Day(NamedTuple):
    """What is asked. `items`: ids of the item table; `mask`: what may not be recommended to whom.

    `tick(phase, num_rows)` is called for every block that was answered.
    """

    ks: tuple[int, ...]
    items: pa.Array
    queries: Queries
    mask: Lists
    tick: Callable[[str, int], None]

    def measure(self, search: Search, phase: str, observe: Observe | None = None) -> Tally:
        """Rank the items for every query, block by block; `observe` sees each block."""
        tally = Tally(self.queries.truth, len(self.items), self.ks)
        for rows, ids, scores in vectors.masked_lists(search, self.mask, len(self.items), max(self.ks) + 1):
            hits = tally.add(rows, ids, scores, search.tolerance[rows])
            if observe:
                observe(Block(rows, ids, scores, hits))
            self.tick(phase, len(rows))
        return tally

    def compare(self, search: Search, exact: Cut, phase: str) -> tuple[Tally, np.ndarray]:
        """Measure an approximate search; return also each query's ANN recall by K, float64 [Q, number of ks]."""
        recalls = np.empty((len(self.queries.users), len(self.ks)))

        def observe(block: Block) -> None:
            cut = Cut(exact.scores[block.rows], exact.counts[block.rows])
            scores = block.scores if search.rescore is None else search.rescore(block.rows, block.ids)
            recalls[block.rows] = ann_recall(scores, cut, search.tolerance[block.rows], self.ks)

        return self.measure(search, phase, observe), recalls

    def means(self, recalls: np.ndarray) -> dict[str, float]:
        """Return the ANN recall by K, a mean over the queries of `recalls` [Q, number of ks]."""
        return {str(k): float(value) for k, value in zip(self.ks, recalls.mean(axis=0), strict=True)}

    def take(self, rows: np.ndarray) -> "Day":
        """Return the day with only the queries `rows`."""
        users, vectors_QD, truth, seen = self.queries
        few = Queries(users.take(pa.array(rows)), vectors_QD[rows], truth.take(rows), seen.take(rows))
        return self._replace(queries=few, mask=self.mask.take(rows))

    @property
    def num_masked(self) -> int:
        """How many ground-truth items are masked, so that no contender can find them."""
        truth, mask = self.queries.truth.known(), self.mask.known()
        stride = len(self.items)
        return int(np.isin(truth.owners * stride + truth.values, mask.owners * stride + mask.values).sum())


class Held(NamedTuple):
    """The vectors of an index, float32 [I, D], and how long the longest is."""

    vectors: np.ndarray
    longest: np.floating

    @classmethod
    def of(cls, vectors_ID: np.ndarray) -> "Held":
        """Measure the vectors."""
        return cls(vectors_ID, recall.longest(vectors_ID))


def by_index(index: Index, held: Held, queries_QD: np.ndarray, value: int | None = None) -> Search:
    """Search an index of the vectors `held`, its search parameter being `value` (None: as it is set)."""

    def find(rows: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
        scores, ids = index.search(queries_QD[rows], width, value)
        return ids, scores

    def rescore(rows: np.ndarray, ids: np.ndarray) -> np.ndarray:
        return recall.similarity(held.vectors, queries_QD[rows], ids, index.metric)

    equal_Q = tolerance(held.longest, queries_QD, index.metric)
    return Search(find, equal_Q, rescore=rescore if index.is_lossy else None)


def tolerance(longest: np.floating, queries_QD: np.ndarray, metric: Metric) -> np.ndarray:
    """float32 [Q]: how much scores of equal items may differ by rounding; no vector of theirs is above `longest`."""
    lengths_Q = np.linalg.norm(queries_QD, axis=1)
    largest_Q = {"ip": longest * lengths_Q, "cosine": np.ones_like(lengths_Q), "l2": (longest + lengths_Q) ** 2}
    return ROUNDING * largest_Q[metric]


def exact(held: Held, queries_QD: np.ndarray, metric: Metric = "ip") -> Search:
    """Score every item for every query, some items at a time; nothing is copied."""

    def find(rows: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
        scores, ids = flat.search(held.vectors, queries_QD[rows], width, metric)
        return ids, scores

    return Search(find, tolerance(held.longest, queries_QD, metric))


def popularity(num_interactions_I: np.ndarray, num_queries: int) -> Search:
    """Rank by count. Equal counts stand in the item table's order: as ties they would lower the bar for the model."""
    baseline = Popularity(num_interactions_I)
    return Search(lambda rows, width: baseline.find(len(rows), width), np.full(num_queries, NO_TIES))


def item_item(baseline: ItemToItem | Ease, seen: Lists, num_items: int) -> Search:
    """Rank by similarity to what each query has seen; equal scores stand as in `popularity`."""
    known = seen.known()
    shape = (len(known.lengths), num_items)
    history_QI = sparse.csr_array((np.ones(len(known.values), np.float32), known.values, known.offsets), shape=shape)
    return by_history(baseline, history_QI)


def by_history(baseline: ItemToItem | Ease, history_QI: sparse.csr_array) -> Search:
    """Rank by what the items of each query's history, which have weights, say of all items."""
    costs_Q = baseline.costs(history_QI)
    return Search(
        lambda rows, width: baseline.find(history_QI[rows], width),
        np.full(len(costs_Q), NO_TIES),
        costs_Q,
        faiss.omp_get_max_threads(),
    )


def of_champion(champion: Embeddings, day: Day) -> Search:
    """Search the champion's vectors exactly, for the day's items and queries in the day's order.

    Raises:
        ValueError: the champion's vectors are of other items or other users.
    """
    items = vectors.read_items(champion.items)
    queries = vectors.read_queries(champion.queries, items.ids)
    item_rows = align(items.ids, day.items, f"{champion.items}: the champion's items")
    query_rows = align(queries.users, day.queries.users, f"{champion.queries}: the champion's queries")
    return exact(Held.of(items.vectors[item_rows]), queries.vectors[query_rows])


def align(found: pa.Array, wanted: pa.Array, what: str) -> np.ndarray:
    """int64: where each of `wanted` stands in `found`, which must hold the same ids.

    Raises:
        ValueError: it does not; `what` names it.
    """
    at = vectors.positions(wanted, found, what)
    if len(found) != len(wanted) or (at < 0).any():
        missing = wanted.take(pa.array(np.flatnonzero(at < 0)))
        example = f", {missing[0].as_py()!r} is missing" if len(missing) else ""
        raise ValueError(f"{what}: {len(found)} ids for the {len(wanted)} of the embeddings{example}; make both anew")
    return at
