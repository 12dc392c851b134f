"""Popularity, item-item cosine and Markov: by hand, against dense oracles, and on real data against known figures."""

import datetime
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from recsys_core.artifacts import Dataset, DayCount, Tail
from recsys_core.metrics.retrieval import Lists
from recsys_core.retrieval import baselines
from recsys_core.retrieval.baselines import ItemItem, Markov, Popularity, count_recent, last_items, read_history
from recsys_core.retrieval.hit_rate.contenders import Day, item_item, popularity
from recsys_core.retrieval.vectors import Queries

DATA = Path(os.environ.get("RECSYS_DATA", Path(__file__).parents[4] / "shared" / "data")) / "taobao-ad"


def history(*rows: list[int], num_items: int) -> sparse.csr_array:
    dense = np.zeros((len(rows), num_items), np.float32)
    for number, row in enumerate(rows):
        dense[number, row] = 1
    return sparse.csr_array(dense)


def test_popular_items_come_first_and_equals_in_table_order():
    ids, scores = Popularity(np.array([1, 5, 0, 5])).find(2, 3)
    assert ids.tolist() == [[1, 3, 0]] * 2
    assert scores.tolist() == [[5, 5, 1]] * 2


def test_cosine_of_three_users_by_hand():
    # user 0: items 0 1, user 1: items 0 1 2, user 2: item 0 -> counts 3, 2, 1.
    baseline = ItemItem(np.array([0, 0, 1, 1, 1, 2]), np.array([0, 1, 0, 1, 2, 0]), 4, 10)
    expected = np.array(
        [
            [0, 2 / 6**0.5, 1 / 3**0.5, 0],
            [2 / 6**0.5, 0, 1 / 2**0.5, 0],
            [1 / 3**0.5, 1 / 2**0.5, 0, 0],
            [0, 0, 0, 0],
        ]
    )
    assert baseline.similarity_II.toarray() == pytest.approx(expected)
    ids, scores = baseline.find(history([2], [0, 1], [3], [], num_items=4), 3)
    assert ids.tolist() == [[1, 0, -1], [2, 0, 1], [-1, -1, -1], [-1, -1, -1]]
    assert scores[1] == pytest.approx([1 / 3**0.5 + 1 / 2**0.5, 2 / 6**0.5, 2 / 6**0.5])
    assert np.isneginf(scores[2:]).all()


def test_only_each_users_last_interactions_count():
    baseline = ItemItem(np.array([0, 1, 0, 0, 1]), np.array([0, 0, 1, 2, 2]), 3, 2)
    # user 0 keeps items 1 2, user 1 keeps items 0 2.
    assert baseline.similarity_II.toarray()[0, 1] == 0
    assert baseline.similarity_II.toarray()[1, 2] == pytest.approx(1 / 2**0.5)


def test_repeated_interactions_count_once():
    once = ItemItem(np.array([0, 0, 1]), np.array([0, 1, 1]), 2, 10)
    often = ItemItem(np.array([0, 0, 0, 1, 1]), np.array([0, 1, 0, 1, 1]), 2, 10)
    assert often.similarity_II.toarray() == pytest.approx(once.similarity_II.toarray())


def test_an_empty_log_makes_nothing_similar():
    baseline = ItemItem(np.empty(0, np.int64), np.empty(0, np.int64), 3, 10)
    assert baseline.find(history([1], num_items=3), 2)[0].tolist() == [[-1, -1]]


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6)), min_size=1, max_size=30),
    st.lists(st.sets(st.integers(0, 6)), min_size=1, max_size=4),
    st.integers(1, 9),
)
def test_item_item_is_the_dense_product(log: list[tuple[int, int]], queries: list[set[int]], width: int):
    users, items = np.array(log).T
    matrix = np.zeros((5, 7))
    matrix[users, items] = 1
    norms = np.sqrt(np.maximum(matrix.sum(0), 1))
    similarity = (matrix / norms).T @ (matrix / norms) * (1 - np.eye(7))
    asked = history(*map(sorted, queries), num_items=7)
    baseline = ItemItem(users, items, 7, 100)
    ids, scores = baseline.find(asked, width)
    expected = asked.toarray() @ similarity
    for query in range(len(queries)):
        positive = np.sort(expected[query][expected[query] > 0])[::-1][:width]
        kept = ids[query] >= 0
        assert scores[query][kept] == pytest.approx(positive, rel=1e-5)
        assert expected[query, ids[query][kept]] == pytest.approx(positive, rel=1e-5)


@pytest.mark.parametrize("dense", [0, baselines._DENSE, 10_000], ids=["never a whole row", "as it comes", "always"])
@pytest.mark.parametrize("width", [1, 5, 60, 400])
def test_the_best_items_are_those_of_the_whole_product_in_the_same_bits(
    monkeypatch: pytest.MonkeyPatch, dense: int, width: int
):
    rng = np.random.default_rng(3)
    num_items, num_users = 300, 80
    # Few popular items and many rare ones, so that some queries touch most items, some few, and scores are often equal.
    items = (num_items * rng.random(900) ** 3).astype(np.int64)
    baseline = ItemItem(rng.integers(0, num_users, 900), items, num_items, 20)
    lengths = [0, 1, 1, 2, 3, 9, 40, 0, 120]
    rows = [rng.choice(num_items, length, replace=False) for length in lengths]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    asked = sparse.csr_array(
        (np.ones(offsets[-1], np.float32), np.concatenate(rows), offsets), shape=(len(rows), num_items)
    )
    monkeypatch.setattr(baselines, "_DENSE", dense)
    ids, scores = baseline.find(asked, width)
    costs = baseline.costs(asked)
    for query, whole in enumerate((asked @ baseline.similarity_II).toarray()):
        assert dense or costs[query] >= (whole > 0).sum()
        best = [item for item in np.lexsort((np.arange(num_items), -whole)).tolist() if whole[item] > 0][:width]
        assert ids[query].tolist() == best + [-1] * (width - len(best))
        assert scores[query, : len(best)].tolist() == whole[best].tolist()
        assert np.isneginf(scores[query, len(best) :]).all()


def dataset(root: Path, days: dict[int, list[tuple]], columns: tuple[str, ...] = ("user_id", "item_id", "timestamp")):
    counts = []
    for day, rows in days.items():
        date = datetime.date(2024, 1, day)
        counts.append(DayCount(day=date, num_interactions=len(rows), num_users=0, num_items=0))
        if rows:
            folder = root / "interactions" / f"ds={date}"
            folder.mkdir(parents=True)
            table = pa.table(dict(zip(columns, map(list, zip(*rows, strict=True)), strict=True)))
            pq.write_table(table, folder / "part-00000.parquet")
    return Dataset(
        path=root,
        key="k",
        digest="d",
        num_rows=0,
        config_hash="c",
        code_version="v",
        files=(),
        root=root,
        day=datetime.date(2024, 1, max(days)),
        days=tuple(counts),
        columns={},
    )


def test_history_is_read_up_to_the_day_oldest_first_without_unknown_items(tmp_path: Path):
    log = dataset(
        tmp_path,
        {1: [("b", "x", 5), ("a", "y", 3)], 2: [], 3: [("a", "new", 9), ("c", "x", 11)], 4: [("a", "x", 20)]},
    )
    users, items, _ = read_history(log, datetime.date(2024, 1, 3), pa.array(["x", "y"]), 100)
    assert users.tolist() == [0, 1, 2]
    assert items.tolist() == [1, 0, 0]


def test_history_has_nothing_that_is_held_out(tmp_path: Path):
    midnight = 1_704_153_600  # 2024-01-02 in Unix seconds
    days = {1: [("a", "x", midnight - 9)], 2: [("b", "y", midnight + 9), ("c", "x", midnight + 80_000)]}
    log = dataset(tmp_path, days)
    users, items, _ = read_history(log, datetime.date(2024, 1, 2), pa.array(["x", "y"]), 100, Tail(hours=2))
    assert (users.tolist(), items.tolist()) == ([0, 1], [0, 1])


def test_what_follows_what_by_hand():
    # user 0: 0 1 2, user 1: 0 2. Of item 0, taken twice: 1 follows once at once, 2 once at once and once a step later.
    baseline = Markov(np.array([0, 1, 0, 0, 1]), np.array([0, 0, 1, 2, 2]), 4, span=2, decay=0.5)
    expected = [[0, 1 / 2, (1 + 0.5) / 2, 0], [0, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert baseline.similarity_II.toarray() == pytest.approx(np.array(expected))
    ids, scores = baseline.find(history([0], [2], num_items=4), 3)
    assert ids.tolist() == [[2, 1, -1], [-1, -1, -1]]
    assert scores[0, :2] == pytest.approx([0.75, 0.5])


@pytest.mark.parametrize("dense", [0, 10_000], ids=["never a whole row", "always"])
@given(
    log=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 6)), min_size=1, max_size=30),
    span=st.integers(1, 9),
    width=st.integers(1, 9),
)
def test_markov_is_the_slow_loop(dense: int, log: list[tuple[int, int]], span: int, width: int):
    decay, table, taken = 0.7, np.zeros((7, 7)), np.zeros(7)
    lists = {user: [item for who, item in log if who == user] for user in range(4)}
    for items in lists.values():
        for at, item in enumerate(items):
            taken[item] += 1
            for distance, follower in enumerate(items[at + 1 : at + 1 + span], 1):
                table[item, follower] += decay ** (distance - 1)
    table /= np.maximum(taken, 1)[:, None]
    users, items = np.array(log).T
    codes = pa.array(["a", "b", "c", "d"])
    queries = pa.array(["c", "nobody", "a"])
    asked = last_items(baselines.History(users, items, codes), queries, 7, span, decay)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(baselines, "_DENSE", dense)
        ids, scores = Markov(users, items, 7, span, decay).find(asked, width)
    for query, user in enumerate((2, None, 0)):
        recent = [] if user is None else lists[user][::-1][:span]
        whole = sum((decay**back * table[item] for back, item in enumerate(recent)), np.zeros(7))
        positive = np.sort(whole[whole > 0])[::-1][:width]
        kept = ids[query] >= 0
        assert scores[query][kept] == pytest.approx(positive, rel=1e-5)
        assert whole[ids[query][kept]] == pytest.approx(positive, rel=1e-5)


def test_an_empty_log_has_nothing_that_follows():
    baseline = Markov(np.empty(0, np.int64), np.empty(0, np.int64), 3, 2, 0.5)
    assert baseline.find(history([1], num_items=3), 2)[0].tolist() == [[-1, -1]]


def test_recent_interactions_are_those_of_the_last_days_that_are_not_held_out(tmp_path: Path):
    midnight = 1_704_240_000  # 2024-01-03 in Unix seconds
    days = {
        1: [("a", "x", midnight - 90_000)],
        2: [("b", "y", midnight - 9), ("c", "x", midnight - 8), ("c", "new", midnight - 7)],
        3: [("a", "y", midnight + 9), ("d", "x", midnight + 80_000)],
        4: [("a", "x", midnight + 90_000)],
    }
    log, items, day = dataset(tmp_path, days), pa.array(["x", "y"]), datetime.date(2024, 1, 3)
    assert count_recent(log, day, items, 1).tolist() == [1, 1]
    assert count_recent(log, day, items, 2).tolist() == [2, 2]
    assert count_recent(log, day, items, 9).tolist() == [3, 2]
    assert count_recent(log, day, items, 2, Tail(hours=2)).tolist() == [1, 2]
    with pytest.raises(ValueError, match="item_id is string where the item table has int64"):
        count_recent(log, day, pa.array([1]), 2)


def test_history_stops_at_the_newest_days_that_suffice(tmp_path: Path):
    log = dataset(tmp_path, {1: [(1, 7, 0)], 2: [(2, 7, 0), (3, 8, 1)]})
    users, items, _ = read_history(log, datetime.date(2024, 1, 2), pa.array([8, 7]), 2)
    assert (users.tolist(), items.tolist()) == ([0, 1], [1, 0])


def test_a_log_without_history_or_with_other_ids_is_named(tmp_path: Path):
    log = dataset(tmp_path, {2: [(1, 7, 0)]})
    with pytest.raises(ValueError, match="no interactions up to 2024-01-01"):
        read_history(log, datetime.date(2024, 1, 1), pa.array([7]), 2)
    with pytest.raises(ValueError, match="item_id is int64 where the item table has string"):
        read_history(log, datetime.date(2024, 1, 2), pa.array(["7"]), 2)


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no {DATA}: set RECSYS_DATA to the folder of the research data")
def test_the_known_figures_of_the_taobao_ad_log():
    train, test, items = (pq.read_table(DATA / f"{name}.parquet") for name in ("train", "test", "items"))
    users, num_items = pa.array(np.unique(test["user_id"].to_numpy())), len(items)

    def by_user(table: pa.Table) -> Lists:
        pairs = np.unique(np.stack([table["user_id"].to_numpy(), table["adgroup_id"].to_numpy()]), axis=1)
        starts = np.searchsorted(pairs[0], users.to_numpy())
        ends = np.searchsorted(pairs[0], users.to_numpy(), side="right")
        offsets = np.concatenate([[0], np.cumsum(ends - starts)])
        at = np.repeat(starts - offsets[:-1], ends - starts) + np.arange(offsets[-1])
        return Lists(pairs[1][at], offsets)

    truth, seen = by_user(test), by_user(train)
    queries = Queries(users, np.empty((len(users), 0), np.float32), truth, seen)
    day = Day((20, 50, 200), items["adgroup_id"].combine_chunks(), queries, seen, lambda phase, num_rows: None)
    clicked = train["adgroup_id"].to_numpy()
    counts = np.bincount(clicked, minlength=num_items)
    rates = day.measure(popularity(counts, len(users)), "popularity").metrics().hit_rate
    assert rates == pytest.approx({"20": 0.0323, "50": 0.0558, "200": 0.1263}, abs=2e-4)
    cosine = ItemItem(train["user_id"].to_numpy(), clicked, num_items, 200)
    rates = day.measure(item_item(cosine, seen, num_items), "item-item").metrics().hit_rate
    assert rates == pytest.approx({"20": 0.0457, "50": 0.0833, "200": 0.1841}, abs=2e-4)
