"""What an index returns of exact search's lists, and the least that a search has to visit for as much as is wanted.

Shapes: Q queries, I items, D dimensions, K items of a list.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from recsys_core.artifacts import IndexRecall, RecallPoint
from recsys_core.indexes import Config, Index, flat
from recsys_core.metrics.retrieval import ROUNDING, Cut, ann_recall
from recsys_core.progress import Event, Sink

# Products of numbers that exact search of all queries may take: some ten seconds of a core.
_MOST_PRODUCTS = 2e11
_NUM_QUERIES = (100, 1_000)
# Of what a search of all returns of it, where no target is stated.
_NEARLY = 0.99
_LARGEST_GRAPH_SEARCH = 8_192
_ROWS_AT_ONCE = 256
_NORMS_AT_ONCE = 65_536


class _Exact(NamedTuple):
    queries: np.ndarray
    ks: tuple[int, ...]
    cut: Cut
    tolerance: np.ndarray


_ByK = dict[str, float]


def sample(num_queries: int, num_items: int, dim: int) -> np.ndarray:
    """int64: which queries are searched, evenly spaced; the fewer the more items there are."""
    least, most = _NUM_QUERIES
    wanted = min(num_queries, max(least, min(most, int(_MOST_PRODUCTS // (num_items * dim)))))
    return np.unique(np.linspace(0, num_queries - 1, wanted).astype(np.int64))


def choose(
    config: Config, index: Index, items_ID: np.ndarray, queries_QD: np.ndarray, ks: Sequence[int], sink: Sink
) -> IndexRecall:
    """Measure the index, and let it visit the least that reaches the target for lists of each of the lengths `ks`.

    Where the config says how much it visits, that is only measured.

    Raises:
        ValueError: a search of all does not reach it; says what it reaches.
    """
    exact = _exact(index, items_ID, queries_QD, tuple(sorted({min(k, len(items_ID)) for k in ks})))
    points: dict[int | None, _ByK] = {}

    def measured(value: int | None) -> _ByK:
        if value not in points:
            points[value] = _measured(index, items_ID, exact, value)
            note = f"{index.parameter} {value} returns {_said(points[value])} of the exact top {_said(exact.ks)}"
            sink(Event(stage="index", done=len(items_ID), total=len(items_ID), message=note))
        return points[value]

    if index.parameter is None or config.value is not None:
        value, reason = config.value, "measured"
        measured(value)
    else:
        value, reason = _least(config, index, measured)
        index.visit(value)
    reason += f", of the exact top {_said(exact.ks)} of {len(queries_QD):,} queries: {_said(points[value])}"
    curve = sorted(points.items(), key=lambda point: point[0] or 0)
    return IndexRecall(
        parameter=index.parameter,
        ks=exact.ks,
        num_queries=len(queries_QD),
        value=value,
        ann_recall=min(points[value].values()),
        reason=reason,
        points=tuple(RecallPoint(value=at, ann_recall=min(by_k.values()), by_k=by_k) for at, by_k in curve),
    )


def _exact(index: Index, items_ID: np.ndarray, queries_QD: np.ndarray, ks: tuple[int, ...]) -> _Exact:
    scores_QK, _ = flat.search(items_ID, queries_QD, ks[-1], index.metric)
    largest = longest(items_ID), np.linalg.norm(queries_QD, axis=1)
    reach = {"ip": largest[0] * largest[1], "cosine": np.ones(len(queries_QD)), "l2": (largest[0] + largest[1]) ** 2}
    cut = Cut(scores_QK[:, np.array(ks) - 1], np.tile(ks, (len(queries_QD), 1)))
    return _Exact(queries_QD, ks, cut, ROUNDING * reach[index.metric])


def _said(numbers: Sequence[int] | _ByK) -> str:
    """Return them as text, recalls with their digits: `20, 50 and 200`."""
    texts = [f"{number:.4f}" for number in numbers.values()] if isinstance(numbers, dict) else [*map(str, numbers)]
    return " and ".join(filter(None, [", ".join(texts[:-1]), texts[-1]]))


def longest(vectors_ND: np.ndarray) -> np.floating:
    """Return the length of the longest vector, looking at some at a time: they may be mapped."""
    starts = range(0, len(vectors_ND), _NORMS_AT_ONCE)
    return max(np.linalg.norm(vectors_ND[start : start + _NORMS_AT_ONCE], axis=1).max() for start in starts)


def _least(config: Config, index: Index, measured: Callable[[int], _ByK]) -> tuple[int, str]:
    """Return the least value that reaches the target, to an eighth of it, and why it is that."""
    whole = index.whole
    assert whole is not None, "what has a search parameter has a value of it that is all"
    most = whole if index.parameter == "nprobe" else min(whole, _LARGEST_GRAPH_SEARCH)
    target = config.target
    # A search of all takes long: it is done where it is the goal, or nothing less reaches it.
    goal = {k: _NEARLY * rate for k, rate in measured(most).items()} if target is None else {}

    def reaches(value: int) -> bool:
        return all(rate >= (goal[k] if target is None else target) for k, rate in measured(value).items())

    low, value = 0, 1 if index.parameter == "nprobe" else min(16, most)
    while not reaches(value):
        if value == most:
            raise ValueError(
                f"index.target_recall: {target} is not reached: {index.parameter} {most:,} returns "
                f"{_said(measured(most))} of the exact top {_said([*map(int, measured(most))])}; lower it, or state "
                f"{index.parameter} yourself; {config.lacks}"
            )
        low, value = value, min(2 * value, most)
    while value - low > max(1, value // 8):
        middle = (low + value) // 2
        low, value = (low, middle) if reaches(middle) else (middle, value)
    wanted = f"{target:.4f}" if target is not None else f"{_said(goal)}, {_NEARLY:.0%} of what all returns"
    return value, f"{index.parameter} {value:,} is the least that returns {wanted}"


def _measured(index: Index, items_ID: np.ndarray, exact: _Exact, value: int | None) -> _ByK:
    found: _ByK = {}
    for ks in [exact.ks] if index.nests else [(k,) for k in exact.ks]:
        scores_QK, rows_QK = index.search(exact.queries, ks[-1], value)
        if index.is_lossy:
            scores_QK = similarity(items_ID, exact.queries, rows_QK, index.metric)
        at = [exact.ks.index(k) for k in ks]
        cut = Cut(exact.cut.scores[:, at], exact.cut.counts[:, at])
        rates = ann_recall(scores_QK, cut, exact.tolerance, ks).mean(axis=0)
        found |= {str(k): float(rate) for k, rate in zip(ks, rates, strict=True)}
    return found


def similarity(items_ID: np.ndarray, queries_QD: np.ndarray, rows_QK: np.ndarray, metric: str) -> np.ndarray:
    """float32 [Q, K]: the exact scores of the items in each query's list, as an index gives them; -inf of padding."""
    scores_QK = np.full(rows_QK.shape, -np.inf, np.float32)
    for start in range(0, len(rows_QK), _ROWS_AT_ONCE):
        some = slice(start, start + _ROWS_AT_ONCE)
        found_BKD, asked_BD = items_ID[rows_QK[some]], queries_QD[some]
        if metric == "l2":
            scores = -((found_BKD - asked_BD[:, None]) ** 2).sum(axis=2)
        else:
            scores = np.einsum("bkd,bd->bk", found_BKD, asked_BD)
        if metric == "cosine":
            lengths = np.linalg.norm(found_BKD, axis=2) * np.linalg.norm(asked_BD, axis=1)[:, None]
            scores = scores / np.maximum(lengths, np.finfo(np.float32).tiny)
        scores_QK[some] = scores
    scores_QK[rows_QK < 0] = -np.inf
    return scores_QK
