"""Retrieval metrics: figures a person can do on paper, and a slow oracle for everything that works on whole blocks."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_core.metrics.retrieval import (
    NO_TIES,
    NOT_FOUND,
    Cut,
    Lists,
    Tally,
    ann_recall,
    blocks,
    keep_unseen,
    locate,
    popularity_buckets,
    ranks_with_ties,
)


def lists(*rows: list[int]) -> Lists:
    return Lists(
        np.array([item for row in rows for item in row], np.int64), np.cumsum([0, *(len(row) for row in rows)])
    )


def test_the_figures_of_two_queries_by_hand():
    # Query 0 finds item 3 at rank 1 and misses item 9 (not in the table); query 1 finds items 5 and 6 at ranks 2 and 3.
    truth = lists([3, -1], [5, 6])
    tally = Tally(truth, num_items=8, ks=(1, 2, 3))
    ids = np.array([[3, 0, 1, 2], [0, 5, 6, 7]])
    scores = np.array([[4.0, 3, 2, 1], [4, 3, 2, 1]])
    hits = tally.add(np.array([0, 1]), ids, scores, np.zeros(2))
    assert hits.tolist() == [[1, 1, 1], [0, 1, 2]]
    assert tally.ranks_N.tolist() == [1, NOT_FOUND, 2, 3]
    metrics = tally.metrics()
    assert metrics.hit_rate == {"1": 1 / 4, "2": 2 / 4, "3": 3 / 4}
    assert metrics.recall == {"1": 0.25, "2": 0.5, "3": 0.75}
    ideal = 1 + 1 / math.log2(3)
    found = 1 / math.log2(3) + 1 / math.log2(4)
    assert metrics.ndcg == pytest.approx(
        {"1": 0.5, "2": (1 / ideal + (1 / math.log2(3)) / ideal) / 2, "3": (1 / ideal + found / ideal) / 2}
    )
    assert metrics.mrr == {"1": 0.5, "2": 0.75, "3": 0.75}
    assert metrics.coverage == {"1": 2 / 8, "2": 3 / 8, "3": 5 / 8}


def test_hit_rate_weighs_items_and_recall_weighs_queries():
    tally = Tally(lists([0], [1, 2, 3]), num_items=5, ks=(1,))
    tally.add(np.array([0, 1]), np.array([[0, 4], [4, 0]]), np.array([[2.0, 1], [2, 1]]), np.zeros(2))
    metrics = tally.metrics()
    assert (metrics.hit_rate["1"], metrics.recall["1"]) == (1 / 4, 1 / 2)


def test_a_tied_item_ranks_last_among_its_equals_and_beyond_the_cut_when_the_tie_crosses_it():
    ids = np.array([[4, 2, 0, 3]])
    assert ranks_with_ties(ids, np.array([[5.0, 3, 3, 1]]), np.zeros(1)).tolist() == [[1, 3, 3, 4]]
    # The fourth entry is the witness of the tie that crosses K = 3.
    assert ranks_with_ties(ids, np.array([[5.0, 3, 3, 3]]), np.zeros(1)).tolist() == [[1, 4, 4, 4]]
    assert ranks_with_ties(ids, np.array([[5.0, 3, 3, 3]]), np.array([NO_TIES])).tolist() == [[1, 2, 3, 4]]


def test_scores_within_the_tolerance_of_their_query_are_equal():
    ids, scores = np.array([[0, 1], [0, 1]]), np.array([[1.0, 0.999], [1.0, 0.999]])
    assert ranks_with_ties(ids, scores, np.array([0.01, 0.0001])).tolist() == [[2, 2], [1, 2]]


def test_a_model_that_scores_everything_alike_finds_nothing():
    tally = Tally(lists([0]), num_items=100, ks=(10,))
    tally.add(np.array([0]), np.arange(11)[None], np.zeros((1, 11)), np.zeros(1))
    metrics = tally.metrics()
    assert metrics.hit_rate["10"] == metrics.coverage["10"] == metrics.mrr["10"] == 0


def test_padding_is_no_item_and_ends_a_tie():
    ids, scores = np.array([[7, 8, -1, -1]]), np.array([[1.0, 0.0, -np.inf, -np.inf]])
    assert ranks_with_ties(ids, scores, np.zeros(1)).tolist() == [[1, 2, NOT_FOUND, NOT_FOUND]]
    tally = Tally(lists([9]), num_items=10, ks=(3,))
    tally.add(np.array([0]), ids, scores, np.zeros(1))
    assert tally.metrics().hit_rate["3"] == 0
    assert tally.metrics().coverage["3"] == 2 / 10


def test_seen_items_and_padding_leave_a_list_and_the_next_move_up():
    ids = np.array([[5, 3, 1, 0], [2, 4, -1, -1]])
    scores = np.array([[9.0, 8, 7, 6], [5, 4, -np.inf, -np.inf]])
    kept, kept_scores = keep_unseen(ids, scores, lists([3, -1, 77], [2]), 3)
    assert kept.tolist() == [[5, 1, 0], [4, -1, -1]]
    assert kept_scores.tolist() == [[9, 7, 6], [4, -np.inf, -np.inf]]


def test_lists_of_nothing_hold_nothing():
    for ids, row in ((np.array([[1, 2]]), []), (np.empty((1, 0), np.int64), [3]), (np.array([[1, 2]]), [3])):
        assert [found.tolist() for found in locate(ids, lists(row))] == [[], []]


@given(
    st.lists(st.tuples(st.sets(st.integers(-1, 99)), st.lists(st.integers(-1, 99), min_size=4, max_size=4)), min_size=1)
)
def test_entries_are_found_in_their_own_rows_list_only(rows: list[tuple[set[int], list[int]]]):
    wanted = lists(*(sorted(values) for values, _ in rows))
    cells, at = locate(np.array([ids for _, ids in rows]), wanted)
    expected = [row * 4 + w for row, (values, ids) in enumerate(rows) for w in range(4) if ids[w] in values - {-1}]
    assert cells.tolist() == expected
    assert wanted.values[at].tolist() == [rows[cell // 4][1][cell % 4] for cell in expected]
    assert wanted.owners[at].tolist() == [cell // 4 for cell in expected]


def test_lists_are_taken_in_any_order():
    taken = lists([1, 2], [], [3]).take(np.array([2, 0, 2]))
    assert (taken.values.tolist(), taken.offsets.tolist()) == ([3, 1, 2, 3], [0, 1, 3, 4])
    known = lists([1, -1], [-1], [3]).known()
    assert (known.values.tolist(), known.offsets.tolist()) == ([1, 3], [0, 1, 1, 2])


@given(st.lists(st.integers(0, 50), max_size=40), st.integers(1, 120))
def test_blocks_cover_every_query_once_within_the_budget(costs: list[int], budget: int):
    found = list(blocks(np.array(costs, np.int64), budget))
    assert sorted(int(row) for block in found for row in block) == list(range(len(costs)))
    for block in found:
        assert len(block) == 1 or len(block) * max(costs[row] for row in block) <= budget


@st.composite
def worlds(draw: st.DrawFn) -> tuple[np.ndarray, list[set[int]], list[list[int]], int]:
    """Scores with many ties [Q, I], seen items and ground truth of each query, and the largest K."""
    num_queries, num_items = draw(st.integers(1, 5)), draw(st.integers(1, 12))
    values = st.lists(st.integers(0, 4), min_size=num_items, max_size=num_items)
    scores = np.array(draw(st.lists(values, min_size=num_queries, max_size=num_queries)), np.float32)
    items = st.integers(0, num_items - 1)
    seen = [draw(st.sets(items)) for _ in range(num_queries)]
    truth = [sorted(draw(st.sets(st.integers(-1, num_items - 1), min_size=1))) for _ in range(num_queries)]
    return scores, seen, truth, draw(st.integers(1, 15))


@given(worlds())
def test_masked_lists_rank_as_the_slow_oracle_does(world: tuple[np.ndarray, list[set[int]], list[list[int]], int]):
    scores, seen, truth, k = world
    num_queries, num_items = scores.shape
    order = np.argsort(-scores, axis=1, kind="stable")
    rows = np.arange(num_queries)[::-1]
    ids, kept = keep_unseen(
        order[rows], np.take_along_axis(scores, order, 1)[rows], lists(*map(sorted, seen)).take(rows), k + 1
    )
    tally = Tally(lists(*truth), num_items, (k,))
    hits = tally.add(rows, ids, kept, np.zeros(num_queries))

    found, recalls, gains, firsts, recommended = 0, [], [], [], set()
    for query in range(num_queries):
        shown = [item for item in range(num_items) if item not in seen[query]]
        rank = {item: sum(scores[query, other] >= scores[query, item] for other in shown) for item in shown}
        recommended |= {item for item in shown if rank[item] <= k}
        ranks = [rank[item] for item in truth[query] if item in rank and rank[item] <= k]
        assert hits[num_queries - 1 - query, 0] == len(ranks)
        found += len(ranks)
        recalls.append(len(ranks) / len(truth[query]))
        ideal = sum(1 / math.log2(place + 1) for place in range(1, min(k, len(truth[query])) + 1))
        gains.append(sum(1 / math.log2(place + 1) for place in ranks) / ideal)
        firsts.append(1 / min(ranks) if ranks else 0.0)
    metrics = tally.metrics()
    key = str(k)
    assert metrics.hit_rate[key] == pytest.approx(found / sum(map(len, truth)))
    assert metrics.recall[key] == pytest.approx(np.mean(recalls))
    assert metrics.ndcg[key] == pytest.approx(np.mean(gains))
    assert metrics.mrr[key] == pytest.approx(np.mean(firsts))
    assert metrics.coverage[key] == pytest.approx(len(recommended) / num_items)


def test_ann_recall_is_the_share_of_the_exact_top_k_whichever_of_equal_items_came():
    exact_ids = np.array([[0, 1, 2, 3], [4, -1, -1, -1], [-1, -1, -1, -1]])
    exact_scores = np.array([[4.0, 3, 2, 2], [1, -np.inf, -np.inf, -np.inf], [-np.inf] * 4], np.float32)
    cut = Cut.of(exact_ids, exact_scores, (1, 3))
    assert cut.counts.tolist() == [[1, 3], [1, 1], [0, 0]]
    # Query 0: item 1 is missed, item 3 comes where its equal 2 stood. Query 1 misses its only item. Query 2 has none.
    scores = np.array([[4.0, 2, 1, 1], [-np.inf] * 4, [-np.inf] * 4], np.float32)
    assert ann_recall(scores, cut, np.zeros(3), (1, 3)) == pytest.approx(np.array([[1, 2 / 3], [0, 0], [1, 1]]))


def test_buckets_hold_equal_shares_of_the_interactions():
    bucket, labels = popularity_buckets(np.array([1, 6, 1, 0, 2, 2, 0]), 2)
    # 12 interactions: item 1 has half of them; 2 + 2 + 1 + 1 are the other half; items 3 and 6 have none.
    assert bucket.tolist() == [1, 0, 1, 2, 1, 1, 2]
    assert labels == ["6", "1-2", "0"]


def test_items_of_equal_popularity_share_a_bucket_and_a_bucket_without_items_is_left_out():
    assert popularity_buckets(np.array([3, 3, 3]), 5)[1] == ["3"]
    assert popularity_buckets(np.array([0, 0]), 5)[1] == ["0"]
