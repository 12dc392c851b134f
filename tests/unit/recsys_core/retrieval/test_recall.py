"""What an index returns of exact search, and how much it then visits: against every value, counted in loops."""

import numpy as np
import pyarrow as pa
import pytest

from recsys_core import indexes, lookup
from recsys_core.progress import silent
from recsys_core.retrieval import recall

K, DIM = 10, 8
KEYS = {"hnsw": {"ef_construction": 40}, "ivf_pq": {"pq_m": 8, "pq_bits": 4}}


def made(kind: str, metric: indexes.Metric = "ip", **keys: object) -> tuple[indexes.Config, indexes.Index, np.ndarray]:
    config = lookup.component(indexes.CATALOGUE, kind).Config.model_validate(keys)
    items = np.random.default_rng(0).normal(size=(600, DIM)).astype(np.float32)
    return config, indexes.build(config, items, pa.array(range(len(items))), metric, 0, silent), items


QUERIES = np.random.default_rng(1).normal(size=(60, DIM)).astype(np.float32)


def overlap(index: indexes.Index, items: np.ndarray, value: int | None) -> float:
    """The share of the exact top K that is returned, by ids: where scores differ by rounding only, it is a bit less."""
    products = QUERIES @ items.T
    if index.metric == "l2":
        products = -((QUERIES[:, None] - items[None]) ** 2).sum(axis=2)
    if index.metric == "cosine":
        products /= np.linalg.norm(items, axis=1)
    best = np.argsort(-products, axis=1)[:, :K]
    found = index.search(QUERIES, K, value)[1]
    return float(np.mean([len({*a} & {*b}) / K for a, b in zip(best.tolist(), found.tolist(), strict=True)]))


@pytest.mark.parametrize("metric", ["ip", "l2", "cosine"])
@pytest.mark.parametrize("kind", ["ivf_flat", "ivf_pq", "hnsw"])
def test_the_least_that_returns_enough_is_chosen_and_stays_with_the_index(kind: str, metric: indexes.Metric, tmp_path):
    config, index, items = made(kind, metric, **KEYS.get(kind, {}))
    found = recall.choose(config, index, items, QUERIES, (K,), silent)
    assert found.value is not None
    measured = {point.value: point.ann_recall for point in found.points}
    goal = 0.95 if kind != "ivf_pq" else 0.99 * measured[index.whole]
    for value, rate in measured.items():
        assert rate == pytest.approx(overlap(index, items, value), abs=0.005)
    assert found.ann_recall == measured[found.value]
    assert found.ann_recall >= goal
    # It is the least of those that were looked at, and the next below it is within an eighth.
    below = max((value for value in measured if value < found.value), default=0)
    assert all(rate < goal for value, rate in measured.items() if value < found.value)
    assert found.value - below <= max(1, found.value // 8) or found.value == min(measured)
    assert (found.ks, found.num_queries, found.parameter) == ((K,), len(QUERIES), index.parameter)
    assert f"{index.parameter} {found.value} is the least that returns {goal:.4f}, " in found.reason
    assert found.reason.endswith(f"of the exact top {K} of 60 queries: {found.ann_recall:.4f}")
    index.save(tmp_path)
    loaded = indexes.load(tmp_path)
    assert loaded.value == found.value
    assert loaded.search(QUERIES, K)[1].tolist() == index.search(QUERIES, K, found.value)[1].tolist()


@pytest.mark.parametrize(("kind", "keys"), [("ivf_flat", {"nprobe": 3}), ("sq8", {}), ("flat", {})])
def test_what_is_stated_or_cannot_be_chosen_is_measured(kind: str, keys: dict):
    config, index, items = made(kind, **keys)
    found = recall.choose(config, index, items, QUERIES, (K,), silent)
    assert (found.value, index.value) == (keys.get("nprobe"), keys.get("nprobe"))
    assert found.ann_recall == pytest.approx(overlap(index, items, found.value), abs=0.005)
    assert len(found.points) == 1


@pytest.mark.parametrize("kind", ["ivf_flat", "ivf_pq", "hnsw"])
def test_lists_of_every_length_that_is_asked_for_reach_the_target(kind: str):
    config, index, items = made(kind, **KEYS.get(kind, {}))
    found = recall.choose(config, index, items, QUERIES, (50, 1, K), silent)
    assert found.value is not None
    alone = {k: recall.choose(config, index, items, QUERIES, (k,), silent) for k in (1, K, 50)}
    assert found.ks == (1, K, 50)
    measured = {point.value: point.by_k for point in found.points}
    for k, one in alone.items():
        # Each as a search for lists of this length finds them, and no part of a longer list that found more.
        for point in one.points:
            if point.value in measured:
                assert measured[point.value][str(k)] == pytest.approx(point.ann_recall, abs=1e-12)
    assert found.value >= max(one.value or 0 for one in alone.values()) * 7 // 8
    assert found.ann_recall == min(measured[found.value].values())
    if kind != "ivf_pq":
        assert found.ann_recall >= 0.95
        # With a target, a search of all is worth nothing.
        assert index.whole not in measured
    assert "of the exact top 1, 10 and 50 of 60 queries: " in found.reason


def test_what_no_search_reaches_is_refused():
    config, index, items = made("ivf_pq", pq_m=1, pq_bits=4, target_recall=0.9)
    with pytest.raises(
        ValueError, match=r"target_recall: 0\.9 is not reached: nprobe 15 returns 0\.\d+ of the exact top 10; lower"
    ):
        recall.choose(config, index, items, QUERIES, (K,), silent)


def test_a_target_beside_what_it_would_choose_is_refused():
    for kind, key in (("ivf_flat", "nprobe"), ("ivf_pq", "nprobe"), ("hnsw", "ef_search"), ("factory", "nprobe")):
        config = lookup.component(indexes.CATALOGUE, kind).Config
        with pytest.raises(ValueError, match=rf"target_recall: 0\.5 is what {key}.* is chosen by, and that is 3"):
            config.model_validate({key: 3, "target_recall": 0.5} | ({"factory": "Flat"} if kind == "factory" else {}))


def test_the_more_items_there_are_the_fewer_queries_are_searched():
    assert len(recall.sample(5_000, 1_000_000, 64)) == 1_000
    assert len(recall.sample(5_000, 10_000_000, 64)) == 312
    assert len(recall.sample(5_000, 100_000_000, 64)) == 100
    assert recall.sample(3, 10, 4).tolist() == [0, 1, 2]


def test_fewer_items_than_asked_for_are_all_there_is_to_return():
    config, index, items = made("ivf_flat")
    few = items[:4]
    index = indexes.build(config, few, pa.array(range(4)), "ip", 0, silent)
    found = recall.choose(config, index, few, QUERIES, (K,), silent)
    assert (found.ks, found.ann_recall) == ((4,), 1.0)
