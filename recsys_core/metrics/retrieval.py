"""Full-ranking retrieval metrics from retrieved lists and ground truth, in numpy, whole blocks of queries at a time.

Three rules decide every number here:
- Ties count against the model: an item's rank is the last position among the items whose score equals its own. A list
  therefore carries one item more than the largest K, the witness that shows whether a tie reaches beyond the cut.
- A list entry of -1 is padding, never an item.
- Ground truth of -1 is an item outside the item table: it stays in every denominator and can never be found.

Shape suffixes: Q queries, B queries of one block, W width of a retrieved list, N values of a jagged list.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from recsys_core.artifacts import RetrievalMetrics

NOT_FOUND = np.iinfo(np.int32).max
NO_ITEM = -1
# Two float32 scores closer than this share of the largest possible score differ by rounding only: equal vectors may
# score differently in the last bits when they fall into different tiles of one matrix product.
ROUNDING = 2.0**-20
# A tolerance for lists whose order is the ranking: no two entries tie.
NO_TIES = -1.0


class Lists(NamedTuple):
    """A jagged list of items per query.

        offsets [0    2  2       5]
        values  [a b |  | c d e  ]   query 0: a b, query 1: nothing, query 2: c d e

    values: int64 [N], positions in the item table, -1 for an item outside it; offsets: int64 [Q + 1].
    """

    values: np.ndarray
    offsets: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """int64 [Q]: number of items of each query."""
        return np.diff(self.offsets)

    @property
    def owners(self) -> np.ndarray:
        """int64 [N]: the query of each value."""
        return np.repeat(np.arange(len(self.offsets) - 1), self.lengths)

    def known(self) -> "Lists":
        """Return the lists without items outside the item table."""
        keep = self.values >= 0
        return Lists(self.values[keep], np.concatenate([[0], np.cumsum(keep)])[self.offsets])

    def positions(self, rows: np.ndarray) -> np.ndarray:
        """int64: where in `values` the items of queries `rows` lie, query after query."""
        lengths = self.lengths[rows]
        ends = np.cumsum(lengths)
        return np.repeat(self.offsets[rows] - ends + lengths, lengths) + np.arange(lengths.sum())

    def take(self, rows: np.ndarray) -> "Lists":
        """Return the lists of queries `rows`, in that order."""
        return Lists(self.values[self.positions(rows)], np.concatenate([[0], np.cumsum(self.lengths[rows])]))


def blocks(costs_Q: np.ndarray, budget: int) -> Iterator[np.ndarray]:
    """Yield blocks of query numbers (int64 [B]) so that B times the block's largest cost stays within `budget`.

    Heavy queries come first and stand in small blocks among their like: one query with a history of 100,000 items then
    costs its own length, not the whole block's. A query dearer than the budget stands alone.
    """
    order = np.argsort(-costs_Q, kind="stable")
    start = 0
    while start < len(order):
        num_rows = max(1, int(budget // max(1, costs_Q[order[start]])))
        yield order[start : start + num_rows]
        start += num_rows


def locate(ids_BW: np.ndarray, lists: Lists) -> tuple[np.ndarray, np.ndarray]:
    """Find the entries that stand in their own row's list.

    Returns:
        int64 [M]: where the matches lie in `ids_BW` (flat), and where in `lists.values`; -1 matches nothing.
    """
    none = np.empty(0, np.int64)
    known = np.flatnonzero(lists.values >= 0)
    if not len(known) or not ids_BW.size:
        return none, none
    owners, values = lists.owners[known], lists.values[known]
    # A row of flags per list, at the items' last bits, lets through few entries besides the matches; only those are
    # looked up. 16 flags an item, but no more than 16 an entry: one long list must not cost as much for every row.
    last_bits = (1 << int(16 * min(lists.lengths.max(), ids_BW.shape[1])).bit_length()) - 1
    flags = np.zeros((len(ids_BW), last_bits + 1), bool)
    flags[owners, values & last_bits] = True
    suspect_BW = np.take_along_axis(flags, ids_BW & last_bits, axis=1)
    suspects = np.flatnonzero(suspect_BW & (ids_BW >= 0))
    if not len(suspects):
        return none, none
    stride = max(int(ids_BW.max()), int(values.max())) + 1
    keys = owners * stride + values
    order = np.argsort(keys, kind="stable")
    wanted = suspects // ids_BW.shape[1] * stride + ids_BW.reshape(-1)[suspects]
    at = np.minimum(np.searchsorted(keys[order], wanted), len(order) - 1)
    found = keys[order][at] == wanted
    return suspects[found], known[order][at[found]]


def keep_unseen(ids_BW: np.ndarray, scores_BW: np.ndarray, seen: Lists, num_keep: int) -> tuple[np.ndarray, np.ndarray]:
    """Take each query's seen items and the padding out of its list; keep the first `num_keep` of what is left.

    Returns:
        ids int64 [B, num_keep], padded with -1, and scores float32 [B, num_keep], padded with -inf.
    """
    keep_BW = ids_BW >= 0
    keep_BW.reshape(-1)[locate(ids_BW, seen)[0]] = False
    keep_BW &= np.cumsum(keep_BW, axis=1, dtype=np.int32) <= num_keep
    filled_BK = np.arange(num_keep) < keep_BW.sum(axis=1)[:, None]
    ids = np.full((len(ids_BW), num_keep), NO_ITEM, np.int64)
    scores = np.full((len(ids_BW), num_keep), -np.inf, np.float32)
    ids[filled_BK] = ids_BW[keep_BW]
    scores[filled_BK] = scores_BW[keep_BW]
    return ids, scores


def ranks_with_ties(ids_BW: np.ndarray, scores_BW: np.ndarray, tolerance_B: np.ndarray) -> np.ndarray:
    """int32 [B, W]: rank from 1 of each entry, the last position among equal scores; scores stand in falling order.

    Neighbours whose scores differ by no more than the query's `tolerance_B` are equal (none with NO_TIES). Padding has
    no rank (NOT_FOUND).
    """
    listed_BW = ids_BW >= 0
    # Padding gets a finite stand-in: -inf minus -inf is no number. Where padding follows an item, a tie ends.
    filled_BW = np.where(listed_BW, scores_BW, 0.0)
    tied_BW = (filled_BW[:, :-1] - filled_BW[:, 1:] <= tolerance_B[:, None]) & listed_BW[:, 1:]
    width = ids_BW.shape[1]
    ranks_BW = np.where(listed_BW, np.arange(1, width + 1, dtype=np.int32), NOT_FOUND)
    rows = np.flatnonzero(tied_BW.any(axis=1))
    if len(rows):
        ends = ranks_BW[rows]
        ends[:, :-1][tied_BW[rows]] = width
        ranks_BW[rows] = np.minimum.accumulate(ends[:, ::-1], axis=1)[:, ::-1]
    return ranks_BW


class Tally:
    """Collects, block by block, the rank of every ground-truth item and the items that were recommended at all."""

    def __init__(self, truth: Lists, num_items: int, ks: Sequence[int]) -> None:
        """`truth`: what is to be found; lists that are added are wider than max(ks)."""
        self.truth = truth
        self.ks = tuple(ks)
        self.ranks_N = np.full(len(truth.values), NOT_FOUND, np.int32)
        self._recommended = np.zeros((len(self.ks), num_items), bool)

    def add(self, rows_B: np.ndarray, ids_BW: np.ndarray, scores_BW: np.ndarray, tolerance_B: np.ndarray) -> np.ndarray:
        """Count one block's masked lists. Returns hits, int64 [B, number of ks]."""
        ranks_BW = ranks_with_ties(ids_BW, scores_BW, tolerance_B)
        cells, at = locate(ids_BW, self.truth.take(rows_B))
        ranks = ranks_BW.reshape(-1)[cells]
        self.ranks_N[self.truth.positions(rows_B)[at]] = ranks
        hits = np.zeros((len(rows_B), len(self.ks)), np.int64)
        for number, k in enumerate(self.ks):
            self._recommended[number, ids_BW[:, :k][ranks_BW[:, :k] <= k]] = True
            hits[:, number] = np.bincount(cells[ranks <= k] // ids_BW.shape[1], minlength=len(rows_B))
        return hits

    @property
    def ranked(self) -> "Ranked":
        """What was found, by the queries that have something to find; those never added have found nothing of it."""
        return Ranked(Lists(self.truth.values, np.unique(self.truth.offsets)), self.ranks_N)

    def metrics(self) -> RetrievalMetrics:
        """Return the metrics over all queries, see `Ranked`.

        coverage: share of the item table with a rank of at most K (so: not in a tie that crosses K) for some query.
        """
        coverage = {str(k): float(self._recommended[number].mean()) for number, k in enumerate(self.ks)}
        return self.ranked.metrics(self.ks).model_copy(update={"coverage": coverage})


class Ranked(NamedTuple):
    """The rank of every ground-truth item, int [N]; `truth` has at least one item per query."""

    truth: Lists
    ranks: np.ndarray

    def part(self, keep_N: np.ndarray) -> "Ranked":
        """Return what the queries that keep an item have found of those that are kept, bool [N]."""
        lengths = np.add.reduceat(keep_N, self.truth.offsets[:-1], dtype=np.int64) if len(keep_N) else keep_N
        truth = Lists(self.truth.values[keep_N], np.concatenate([[0], np.cumsum(lengths[lengths > 0])]))
        return Ranked(truth, self.ranks[keep_N])

    def take(self, rows: np.ndarray) -> "Ranked":
        """Return what the queries `rows` have found."""
        return Ranked(self.truth.take(rows), self.ranks[self.truth.positions(rows)])

    def sums(self, k: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Return two numbers for each query, float64 [Q]: a metric is the sum of the first over that of the second.

        hit_rate: hits over ground-truth items, both summed over queries; recall: mean of found÷relevant; ndcg: binary
        gains, the ideal list holds min(K, relevant) items; mrr: mean of 1÷rank of the first item found, 0 beyond K.
        All of them are better the higher they are.
        """
        starts, lengths = self.truth.offsets[:-1], self.truth.lengths
        ranks_N, ones_Q = self.ranks.astype(np.float64), np.ones(len(lengths))
        discounts = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(2, k + 2)))])
        hits_Q = np.add.reduceat(ranks_N <= k, starts, dtype=np.float64)
        gain_Q = np.add.reduceat(np.where(ranks_N <= k, 1 / np.log2(ranks_N + 1), 0.0), starts)
        first_Q = np.minimum.reduceat(ranks_N, starts)
        return {
            "hit_rate": (hits_Q, lengths.astype(np.float64)),
            "recall": (hits_Q / lengths, ones_Q),
            "ndcg": (gain_Q / discounts[np.minimum(lengths, k)], ones_Q),
            "mrr": (np.where(first_Q <= k, 1 / first_Q, 0.0), ones_Q),
        }

    def metrics(self, ks: Sequence[int]) -> RetrievalMetrics:
        """Return the metrics but for the coverage, which lists alone do not give."""
        fields: dict[str, dict[str, float]] = {name: {} for name in RetrievalMetrics.model_fields}
        for k in ks:
            for name, (numerators, denominators) in self.sums(k).items():
                fields[name][str(k)] = float(numerators.sum() / denominators.sum())
        return RetrievalMetrics.model_validate(fields)


class Cut(NamedTuple):
    """Where exact top-K lists end: the score of the last item, float32 [Q, number of ks], and how many items, int64."""

    scores: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, ids_BW: np.ndarray, scores_BW: np.ndarray, ks: Sequence[int]) -> "Cut":
        """Cut masked exact lists at each K; a list may hold fewer items than K."""
        counts = np.stack([(ids_BW[:, :k] >= 0).sum(axis=1) for k in ks], axis=1)
        last = np.take_along_axis(scores_BW, np.maximum(counts - 1, 0), axis=1)
        return cls(np.where(counts > 0, last, np.inf).astype(np.float32), counts)


def ann_recall(scores_BW: np.ndarray, exact: Cut, tolerance_B: np.ndarray, ks: Sequence[int]) -> np.ndarray:
    """float64 [B, number of ks]: the share of each query's exact top K that its approximate list holds in its own.

    Both lists are masked alike and padded with -inf. An entry belongs to the exact top K when it scores at least as
    much as the exact list's last item: which of several equal items at the cut was returned does not matter. A query
    with nothing left to list counts as 1.
    """
    right = np.stack(
        [
            (scores_BW[:, :k] >= exact.scores[:, number, None] - tolerance_B[:, None]).sum(axis=1)
            for number, k in enumerate(ks)
        ],
        axis=1,
    )
    return np.where(exact.counts > 0, right / np.maximum(exact.counts, 1), 1.0)


def popularity_buckets(num_interactions_I: np.ndarray, num_buckets: int) -> tuple[np.ndarray, list[str]]:
    """Split items into buckets of equal interaction mass, head first; items never interacted with get their own.

    Items with equal counts stay together, so a bucket may hold more than its share and another be left out.

    Returns:
        bucket int64 [I], and each bucket's label: its range of interactions per item, `120-841`, `7` or `0`.
    """
    counts = num_interactions_I.astype(np.int64)
    order = np.argsort(-counts, kind="stable")
    falling = counts[order]
    mass_before = np.cumsum(falling) - falling
    first_of_equals = np.searchsorted(-falling, -falling)
    share = np.empty(len(counts), np.int64)
    share[order] = mass_before[first_of_equals] * num_buckets // max(1, int(counts.sum()))
    share[counts == 0] = num_buckets
    numbers, bucket = np.unique(share, return_inverse=True)
    spans = [(counts[bucket == number].min(), counts[bucket == number].max()) for number in range(len(numbers))]
    return bucket, [f"{low}-{high}" if low < high else f"{low}" for low, high in spans]
