"""The hit rate stage over real artifacts: against a slow oracle, beside its baselines and its champion."""

import datetime
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from recsys_core import artifacts
from recsys_core.artifacts import (
    Dataset,
    DayCount,
    Embeddings,
    Evaluation,
    Holdout,
    LeaveOneOut,
    NextDay,
    RetrievalSlice,
    Temporal,
    TrainingData,
)
from recsys_core.gate import Part
from recsys_core.progress import Event, silent
from recsys_core.retrieval import hit_rate as hitrate
from recsys_core.retrieval import index
from recsys_core.retrieval.requests import EaseConfig
from recsys_core.retrieval.requests import HitRateConfig as Config

DAY = datetime.date(2024, 1, 3)
NUM_USERS, NUM_ITEMS, DIM = 30, 120, 6
KS = (1, 5, 20)


class Inputs(artifacts.Request):
    what: str


class World:
    """One day of a small shop: a log, its item table, ground truth with surprises, and vectors of two models."""

    def __init__(self, root: Path, ids: Callable[[int], Any] = int) -> None:
        self.root, self.ids = root, ids
        rng = np.random.default_rng(5)
        self.items, self.champion_items = self.vectors(rng, NUM_ITEMS), self.vectors(rng, NUM_ITEMS)
        self.users, self.champion_users = self.vectors(rng, NUM_USERS), self.vectors(rng, NUM_USERS)
        # Items 100 to 119 are one vector: ties in every list that reaches them.
        self.items[100:] = self.items[100]
        self.seen = [
            sorted(rng.choice(NUM_ITEMS, rng.integers(0, 30), replace=False).tolist()) for _ in range(NUM_USERS)
        ]
        self.seen[3] = []
        liked = np.argsort(-self.users @ self.items.T, axis=1)
        self.truth = [sorted({int(liked[u, u % 7]), int(rng.integers(NUM_ITEMS)), 500 + u}) for u in range(NUM_USERS)]
        self.counts = rng.integers(0, 9, NUM_ITEMS)
        self.log = [(user, item) for user in range(NUM_USERS) for item in self.seen[user]]

    @staticmethod
    def vectors(rng: np.random.Generator, num_rows: int) -> np.ndarray:
        return rng.normal(size=(num_rows, DIM)).astype(np.float32)

    def commit(self, record: Any, name: str, files: dict[str, pa.Table], **fields: Any) -> Any:
        request = Inputs(output=self.root / name, what=name, config_hash="c", code_version="v")
        with artifacts.pending(request.output) as aside:
            for path, table in files.items():
                (aside.path / path).parent.mkdir(parents=True, exist_ok=True)
                pq.write_table(table, aside.path / path)
            return aside.commit(record, request, **fields)

    def item_ids(self, rows: Any) -> pa.Array:
        return pa.array([self.ids(int(row)) for row in rows])

    def lists(self, rows: list[list[int]]) -> pa.Array:
        kind = pa.list_(self.item_ids([0]).type)
        return pa.array([[self.ids(item) for item in row] for row in rows], kind)

    def embeddings(
        self, name: str, items: np.ndarray, users: np.ndarray, order: np.ndarray | None = None
    ) -> Embeddings:
        order = np.arange(NUM_USERS) if order is None else order
        item_order = np.arange(NUM_ITEMS) if order[0] == 0 else np.arange(NUM_ITEMS)[::-1]

        def column(vectors: np.ndarray) -> pa.Array:
            return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(vectors).ravel()), DIM)

        return self.commit(
            Embeddings,
            name,
            {
                "items/part-00000.parquet": pa.table(
                    {"item_id": self.item_ids(item_order), "embedding": column(items[item_order])}
                ),
                "queries/part-00000.parquet": pa.table(
                    {
                        "user_id": [f"u{user}" for user in order],
                        "gt_items": self.lists([self.truth[user] for user in order]),
                        "seen_items": self.lists([self.seen[user] for user in order]),
                        "embedding": column(users[order]),
                    }
                ),
            },
            num_rows=NUM_USERS + NUM_ITEMS,
            embedding_dim=DIM,
            num_items=NUM_ITEMS,
            num_queries=NUM_USERS,
            model_digest=name,
        )

    def data(self) -> TrainingData:
        # The users and items stand in another order than their vectors: only ids match them.
        items, users = range(NUM_ITEMS)[::-1], range(NUM_USERS)[::-1]
        table = pa.table(
            {
                "item_id": self.item_ids(items),
                "num_interactions": self.counts[::-1],
                "brand": [item % 3 for item in items],
                "name": ["x"] * NUM_ITEMS,
            }
        )
        asked = pa.table(
            {
                "user_id": [f"u{user}" for user in users],
                "city": pa.array([None if user == 4 else ("rome", "oslo")[user % 2] for user in users]),
                "name": ["y"] * NUM_USERS,
            }
        )
        return self.commit(
            TrainingData,
            "preprocess",
            {"items/part-00000.parquet": table, "ground_truth/part-00000.parquet": asked},
            num_rows=1,
            day=DAY,
            first_day=DAY,
            ground_truth_day=DAY + datetime.timedelta(days=1),
            num_items=NUM_ITEMS,
            num_queries=NUM_USERS,
            num_ground_truth=1,
            engine_digest="e",
        )

    def dataset(self) -> Dataset:
        table = pa.table(
            {
                "user_id": [f"u{user}" for user, _ in self.log],
                "item_id": self.item_ids([item for _, item in self.log]),
                "timestamp": np.arange(len(self.log)),
            }
        )
        count = DayCount(day=DAY, num_interactions=len(self.log), num_users=0, num_items=0)
        return self.commit(
            Dataset,
            "ingest",
            {f"interactions/ds={DAY}/part-00000.parquet": table},
            num_rows=len(self.log),
            root=self.root / "ingest",
            day=DAY,
            days=(count,),
            columns={},
        )

    def request(self, *, champion: bool = False, kind: str = "ivf_flat", **config: Any) -> hitrate.Request:
        embeddings = self.embeddings("embed", self.items, self.users)
        common = {"config_hash": "c", "code_version": "v"}
        built = index.run(
            index.Request(
                output=self.root / "index",
                config={"kind": kind} | ({"nprobe": 1, "nlist": 8} if kind == "ivf_flat" else {}),
                embeddings=embeddings,
                seed=1,
                **common,
            ),
            silent,
        )
        # The champion's rows stand in another order: only ids match them.
        backwards = np.arange(NUM_USERS)[::-1]
        live = self.embeddings("champion", self.champion_items, self.champion_users, backwards) if champion else None
        return hitrate.Request(
            output=self.root / "hitrate",
            config=Config.model_validate({"ks": KS, "popularity_k": 5} | config),
            dataset=self.dataset(),
            data=self.data(),
            embeddings=embeddings,
            index=built,
            champion=live,
            **common,
        )

    def hit_rate(
        self,
        scores: np.ndarray,
        k: int,
        *,
        mask_seen: bool = True,
        kept: Callable[[int, int], bool] = lambda user, item: True,
    ) -> float:
        """Count in plain loops: rank = how many unmasked items score at least as much."""
        hits = num_truth = 0
        for user in range(NUM_USERS):
            shown = [item for item in range(NUM_ITEMS) if not mask_seen or item not in self.seen[user]]
            for item in self.truth[user]:
                rank = sum(scores[user, other] >= scores[user, item] for other in shown) if item in shown else None
                hits += kept(user, item) and rank is not None and rank <= k
                num_truth += kept(user, item)
        return hits / num_truth


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def exact_scores(users: np.ndarray, items: np.ndarray) -> np.ndarray:
    return np.einsum("qd,id->qi", users.astype(np.float64), items.astype(np.float64))


def test_a_split_of_the_whole_log_stands_in_the_protocol(world: World):
    asked = world.request()
    asked = asked.model_copy(update={"data": asked.data.model_copy(update={"num_tied": 3})})

    def protocol(held_out: Holdout, output: str) -> str:
        changed = {"holdout": held_out, "output": world.root / output, "dataset": None}
        return hitrate.run(asked.model_copy(update=changed), silent).protocol

    tested = protocol(LeaveOneOut(), "tested")
    assert "(leave_one_out): measured on its test rows; validation rows are known, but not learned from; 3 of" in tested
    learned = protocol(Temporal(share=0.1, learns_validation=True), "learned")
    assert "(temporal): measured on its test rows; validation rows are learned from; 3 of them would be" in learned
    validated = protocol(LeaveOneOut(part="validation"), "validated")
    assert "measured on its validation rows, and test rows are left out; 3 of them would be others in an" in validated
    assert protocol(NextDay(), "next").startswith("Full ranking")


@pytest.mark.parametrize("mask_seen", [True, False])
def test_the_exact_hit_rate_is_the_slow_oracles(world: World, mask_seen: bool):
    evaluation = hitrate.run(world.request(mask_seen=mask_seen), silent)
    scores = exact_scores(world.users, world.items)
    for k in KS:
        assert evaluation.exact.hit_rate[str(k)] == pytest.approx(world.hit_rate(scores, k, mask_seen=mask_seen))
    assert evaluation.exact.hit_rate["20"] > 0
    assert ("nothing is masked" in evaluation.protocol) is not mask_seen
    assert Evaluation.load(evaluation.path) == evaluation


def test_the_baselines_are_the_slow_oracles(world: World):
    evaluation = hitrate.run(world.request(), silent)
    order = np.argsort(np.argsort(-world.counts, kind="stable"))
    popular = np.tile(-order.astype(np.float64), (NUM_USERS, 1))
    matrix = np.zeros((NUM_USERS, NUM_ITEMS))
    matrix[tuple(np.array(world.log).T)] = 1
    norms = np.sqrt(np.maximum(matrix.sum(0), 1))
    similar = matrix @ ((matrix / norms).T @ (matrix / norms) * (1 - np.eye(NUM_ITEMS)))
    clicks = np.bincount([item for _, item in world.log], minlength=NUM_ITEMS)
    recent = np.tile(-np.argsort(np.argsort(-clicks, kind="stable")).astype(np.float64), (NUM_USERS, 1))
    table, following = np.zeros((NUM_ITEMS, NUM_ITEMS)), np.zeros((NUM_USERS, NUM_ITEMS))
    for items in world.seen:
        for at, item in enumerate(items):
            for distance, follower in enumerate(items[at + 1 : at + 11], 1):
                table[item, follower] += 0.8 ** (distance - 1) / clicks[item]
    for user, items in enumerate(world.seen):
        for back, item in enumerate(items[::-1][:10]):
            following[user] += 0.8**back * table[item]
    for k in KS:
        assert evaluation.popularity.hit_rate[str(k)] == pytest.approx(world.hit_rate(popular, k))
        assert evaluation.item_item is not None
        assert evaluation.item_item.hit_rate[str(k)] == pytest.approx(world.hit_rate(similar, k))
        assert evaluation.recent_popularity is not None
        assert evaluation.recent_popularity.hit_rate[str(k)] == pytest.approx(world.hit_rate(recent, k))
        assert evaluation.markov is not None
        assert evaluation.markov.hit_rate[str(k)] == pytest.approx(world.hit_rate(following, k))


def test_ease_is_the_slow_oracle_where_it_is_asked_for(world: World):
    asked = world.request()
    with_ease = asked.config.model_copy(update={"ease": EaseConfig(regularization=3.0)})
    evaluation = hitrate.run(asked.model_copy(update={"config": with_ease}), silent)
    matrix = np.zeros((NUM_USERS, NUM_ITEMS))
    matrix[tuple(np.array(world.log).T)] = 1
    # Each item's weights by themselves: a ridge regression on the others.
    table = np.zeros((NUM_ITEMS, NUM_ITEMS))
    for item in range(NUM_ITEMS):
        others = np.arange(NUM_ITEMS) != item
        own = matrix[:, others]
        table[others, item] = np.linalg.solve(own.T @ own + 3.0 * np.eye(NUM_ITEMS - 1), own.T @ matrix[:, item])
    scores = np.where(matrix.any(axis=1, keepdims=True), matrix @ table, -np.inf)
    assert evaluation.ease is not None
    for k in KS:
        assert evaluation.ease.hit_rate[str(k)] == pytest.approx(world.hit_rate(scores, k))
    assert "EASE: of the same interactions, regularization 3" in evaluation.protocol


def test_ease_is_not_measured_of_more_items_than_it_may_hold(world: World):
    asked, few = world.request(), EaseConfig(max_items=NUM_ITEMS - 1)
    asked = asked.model_copy(update={"config": asked.config.model_copy(update={"ease": few})})
    events: list[Event] = []
    evaluation = hitrate.run(asked, events.append)
    assert evaluation.ease is None
    assert f"EASE: none, as there are {NUM_ITEMS} items and hitrate.ease.max_items is {NUM_ITEMS - 1}" in (
        evaluation.protocol
    )
    assert events[-1].done == events[-1].total


def test_without_a_log_there_is_no_baseline_of_one(world: World):
    evaluation = hitrate.run(world.request().model_copy(update={"dataset": None}), silent)
    assert (evaluation.item_item, evaluation.recent_popularity, evaluation.markov) == (None, None, None)
    assert "the other baselines: none, as there is no log. Baselines' ties" in evaluation.protocol
    assert Evaluation.load(evaluation.path) == evaluation


def test_the_champion_is_measured_on_the_same_queries_whatever_the_order_of_its_rows(world: World):
    evaluation = hitrate.run(world.request(champion=True), silent)
    scores = exact_scores(world.champion_users, world.champion_items)
    assert evaluation.champion is not None
    for k in KS:
        assert evaluation.champion.hit_rate[str(k)] == pytest.approx(world.hit_rate(scores, k))


def test_differences_to_the_champion_have_intervals_over_users(world: World):
    evaluation = hitrate.run(world.request(champion=True), silent)
    assert evaluation.champion is not None
    assert evaluation.differences.keys() == {
        f"{name}@{k}" for name in ("hit_rate", "recall", "ndcg", "mrr") for k in KS
    }
    for name, found in evaluation.differences.items():
        metric, k = name.split("@")
        own, theirs = getattr(evaluation.exact, metric)[k], getattr(evaluation.champion, metric)[k]
        assert found.value == pytest.approx(own - theirs)
        assert found.low is not None
        assert found.high is not None
        assert found.low <= found.value <= found.high
    assert hitrate.run(world.request(), silent).differences == {}


def test_parts_of_the_ground_truth_are_the_slow_oracles(world: World):
    world.counts[:40] = 0
    asked = {
        "new_users": Part(),
        "cold_items": Part(),
        "northern": Part(column="city", value="oslo"),
        "branded": Part(column="brand", value=2),
        "nowhere": Part(column="city", value="atlantis"),
    }
    kept: dict[str, Callable[[int, int], bool]] = {
        "new_users": lambda user, item: not world.seen[user],
        "cold_items": lambda user, item: item >= NUM_ITEMS or world.counts[item] == 0,
        "northern": lambda user, item: user % 2 == 1,
        "branded": lambda user, item: item < NUM_ITEMS and item % 3 == 2,
    }
    request = world.request(champion=True).model_copy(update={"parts": asked})
    slices = hitrate.run(request, silent).slices
    scores = exact_scores(world.users, world.items), exact_scores(world.champion_users, world.champion_items)
    for name, keeps in kept.items():
        found = slices[name]
        entries = [(u, i) for u in range(NUM_USERS) for i in world.truth[u] if keeps(u, i)]
        assert (found.num_queries, found.num_ground_truth) == (len({user for user, _ in entries}), len(entries))
        assert found.exact is not None
        assert found.champion is not None
        for k in KS:
            own, theirs = (world.hit_rate(values, k, kept=keeps) for values in scores)
            assert (found.exact.hit_rate[str(k)], found.champion.hit_rate[str(k)]) == pytest.approx((own, theirs))
            assert found.differences[f"hit_rate@{k}"].value == pytest.approx(own - theirs)
        assert (found.differences["mrr@5"].low is None) == (found.num_queries < 20)
    assert slices["nowhere"] == RetrievalSlice(
        num_queries=0, num_ground_truth=0, exact=None, champion=None, differences={}
    )


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (Part(column="town", value="x"), "neither the users nor the items have a column 'town'; .*, of user_id, city"),
        (Part(column="name", value="x"), "both the users and the items have a column 'name'"),
        (Part(column="city", value=3), r"gate.slices.odd.value: 3, and the column 'city' is string; give a value of"),
        (Part(column="brand", value="3"), r"gate.slices.odd.value: '3', and the column 'brand' is int64"),
        (Part(column="brand", value=True), r"gate.slices.odd.value: True, and the column 'brand' is int64"),
    ],
)
def test_a_part_that_no_row_could_have_is_refused(world: World, part: Part, message: str):
    request = world.request().model_copy(update={"parts": {"odd": part}})
    with pytest.raises(ValueError, match=message):
        hitrate.run(request, silent)
    assert not request.output.exists()


@pytest.mark.parametrize(("kind", "values"), [("ivf_flat", [1, 2, 4, 8]), ("hnsw", [16 << n for n in range(7)])])
def test_the_sweep_climbs_to_exact_search(world: World, kind: str, values: list[int]):
    evaluation = hitrate.run(world.request(kind=kind), silent)
    assert list(evaluation.ann_recall_by_nprobe) == [str(value) for value in values]
    assert evaluation.ann_recall_by_nprobe[str(values[-1])] == dict.fromkeys(map(str, KS), 1.0)
    sweep = json.loads((evaluation.path / "sweep.json").read_text())
    assert (sweep["kind"], sweep["num_queries"]) == (kind, NUM_USERS)
    assert [point["value"] for point in sweep["points"]] == values
    assert sweep["points"][-1]["hit_rate"] == evaluation.exact.hit_rate
    if kind == "ivf_flat":
        # One cell of eight: the stored nprobe is what the approximate figures are about.
        assert evaluation.ann_recall == evaluation.ann_recall_by_nprobe["1"]
        assert evaluation.ann_recall["20"] < 0.9
        assert evaluation.approximate.hit_rate["20"] < evaluation.exact.hit_rate["20"]


def found_by(world: World, index: faiss.Index, k: int) -> tuple[float, float]:
    """Search `index` as it is set, for every query and every item; return hit rate and ANN recall at `k`, in loops."""
    scores, ids = index.search(world.users, NUM_ITEMS)
    everything = exact_scores(world.users, world.items)
    hits, recalls = 0, []
    for user in range(NUM_USERS):
        close = 2.0**-20 * np.linalg.norm(world.items, axis=1).max() * np.linalg.norm(world.users[user])
        listed = {
            int(item): float(score)
            for item, score in zip(ids[user], scores[user], strict=True)
            if item >= 0 and item not in world.seen[user]
        }
        for item in world.truth[user]:
            hits += item in listed and sum(score >= listed[item] - close for score in listed.values()) <= k
        best = sorted(np.delete(everything[user], world.seen[user]), reverse=True)[:k]
        right = [score for score in sorted(listed.values(), reverse=True)[:k] if score >= best[-1] - close]
        recalls.append(len(right) / len(best))
    return hits / sum(map(len, world.truth)), float(np.mean(recalls))


@pytest.mark.parametrize("kind", ["ivf_flat", "hnsw"])
def test_the_sweep_finds_what_a_search_of_every_query_at_each_value_finds(world: World, kind: str):
    request = world.request(kind=kind, sweep=[1, 2, 3, 5, 8, 300])
    evaluation = hitrate.run(request, silent)
    searched = faiss.read_index(str(request.index.faiss))
    for point in json.loads((evaluation.path / "sweep.json").read_text())["points"]:
        setattr(*((searched, "nprobe") if kind == "ivf_flat" else (searched.hnsw, "efSearch")), point["value"])
        for k in KS:
            expected = pytest.approx(found_by(world, searched, k))
            assert (point["hit_rate"][str(k)], point["ann_recall"][str(k)]) == expected


@pytest.mark.parametrize("kind", [{"kind": "sq8"}, {"kind": "ivf_pq", "pq_bits": 4, "nlist": 3, "nprobe": 2}])
def test_of_codes_it_counts_which_items_are_returned_and_not_how_they_score(world: World, kind: dict):
    embeddings = world.embeddings("embed", world.items, world.users)
    common = {"config_hash": "c", "code_version": "v"}
    asked = index.Request(output=world.root / "codes", config=kind, embeddings=embeddings, seed=1, **common)
    request = world.request(mask_seen=False).model_copy(update={"index": index.run(asked, silent)})
    evaluation = hitrate.run(request, silent)
    found = faiss.read_index(str(request.index.faiss)).search(world.users, 20)[1]
    scores = exact_scores(world.users, world.items)
    recalls = []
    for user in range(NUM_USERS):
        least = sorted(scores[user], reverse=True)[19] - 1e-5
        recalls.append(np.mean([item >= 0 and scores[user, item] >= least for item in found[user]]))
    assert evaluation.ann_recall["20"] == pytest.approx(np.mean(recalls))
    assert evaluation.ann_recall["20"] < 1
    if kind["kind"] == "ivf_pq":
        assert evaluation.ann_recall_by_nprobe["2"] == evaluation.ann_recall


def test_items_that_an_index_lacks_show_at_every_value_of_the_sweep(world: World):
    request = world.request()
    lacking = faiss.read_index(str(request.index.faiss))
    # What stands behind it moves up in no list of cells: only the ids are gone.
    lacking.remove_ids(np.arange(0, 40))
    faiss.write_index(lacking, str(request.index.faiss))
    sweep = hitrate.run(request, silent).ann_recall_by_nprobe
    lacking.nprobe = lacking.nlist
    for k in KS:
        assert sweep["8"][str(k)] == pytest.approx(found_by(world, lacking, k)[1])
    assert sweep["8"]["20"] < 0.9


def test_a_flat_index_of_other_vectors_is_measured_as_it_is(world: World):
    request = world.request(kind="flat")
    other = faiss.IndexFlatIP(DIM)
    other.add(np.ascontiguousarray(world.items[::-1]))
    faiss.write_index(other, str(request.index.faiss))
    evaluation = hitrate.run(request, silent)
    for k in KS:
        expected = pytest.approx(found_by(world, other, k))
        assert (evaluation.approximate.hit_rate[str(k)], evaluation.ann_recall[str(k)]) == expected
    assert evaluation.approximate != evaluation.exact


def test_a_flat_index_is_exact_and_has_nothing_to_sweep(world: World):
    evaluation = hitrate.run(world.request(kind="flat", sweep=[1, 2]), silent)
    assert evaluation.approximate == evaluation.exact
    assert evaluation.ann_recall == dict.fromkeys(map(str, KS), 1.0)
    assert evaluation.ann_recall_by_nprobe == {}


def test_the_sweep_can_be_stated_left_out_and_made_on_some_queries(world: World):
    evaluation = hitrate.run(world.request(sweep=[3, 7], num_sweep_queries=4), silent)
    assert list(evaluation.ann_recall_by_nprobe) == ["3", "7"]
    assert json.loads((evaluation.path / "sweep.json").read_text())["num_queries"] == 4
    assert hitrate.run(world.request(sweep=[]), silent).ann_recall_by_nprobe == {}


def test_details_give_each_users_day(world: World):
    evaluation = hitrate.run(world.request(), silent)
    rows = {row["user_id"]: row for row in pq.read_table(evaluation.path / "details.parquet").to_pylist()}
    assert len(rows) == NUM_USERS
    assert sum(row["hits_at_20"] for row in rows.values()) / evaluation.num_ground_truth == pytest.approx(
        evaluation.exact.hit_rate["20"]
    )
    scores = exact_scores(world.users, world.items)
    row = rows["u8"]
    assert (row["num_gt"], row["num_seen"]) == (len(world.truth[8]), len(world.seen[8]))
    scores[8, world.seen[8]] = -np.inf
    untied = [item for item in np.argsort(-scores[8])[:20] if item < 100]
    assert [item for item in row["top_items"] if item < 100] == untied
    assert len(row["top_items"]) == 20


def test_the_hit_rate_by_popularity_adds_up(world: World):
    evaluation = hitrate.run(world.request(), silent)
    counts = {label: label.split("-") for label in evaluation.hit_rate_by_popularity}
    hits = 0.0
    for label, span in counts.items():
        inside = [
            item
            for row in world.truth
            for item in row
            if item < NUM_ITEMS and int(span[0]) <= world.counts[item] <= int(span[-1])
        ]
        hits += evaluation.hit_rate_by_popularity[label] * len(inside)
    assert hits / evaluation.num_ground_truth == pytest.approx(evaluation.exact.hit_rate["5"])
    default = hitrate.run(world.request(popularity_k=None), silent)
    assert default.hit_rate_by_popularity == evaluation.hit_rate_by_popularity


def test_the_record_counts_what_can_never_be_found(world: World):
    world.truth[3] = [0, 1, 999]
    world.seen[3] = [1, 2]
    evaluation = hitrate.run(world.request(), silent)
    masked = sum(len(set(truth) & set(seen)) for truth, seen in zip(world.truth, world.seen, strict=True))
    outside = sum(item >= NUM_ITEMS for row in world.truth for item in row)
    assert f"of which {outside} are not in the item table and {masked} are masked" in evaluation.protocol
    assert evaluation.num_ground_truth == sum(map(len, world.truth))
    assert (evaluation.day, evaluation.ground_truth_day) == (DAY, DAY + datetime.timedelta(days=1))


def test_strings_are_ids_like_any_other(tmp_path: Path):
    numbers = hitrate.run(World(tmp_path / "a").request(), silent)
    texts = hitrate.run(World(tmp_path / "b", ids=str).request(), silent)
    assert texts.exact == numbers.exact
    assert texts.item_item == numbers.item_item


def test_the_ground_truths_digest_is_of_who_wants_what_and_not_of_the_model_or_the_order(tmp_path: Path):
    first = World(tmp_path / "a")
    digest = hitrate.run(first.request(), silent).ground_truth_digest
    other = World(tmp_path / "b")
    other.items, other.users = other.champion_items, other.champion_users
    other.truth = [row[::-1] for row in other.truth]
    assert hitrate.run(other.request(), silent).ground_truth_digest == digest
    other.truth[0] = [*other.truth[0], 119]
    assert hitrate.run(other.request(), silent).ground_truth_digest != digest


def test_the_same_request_makes_the_same_bytes(tmp_path: Path):
    first, second = (hitrate.run(World(tmp_path / name).request(champion=True), silent) for name in "ab")
    assert first.digest == second.digest
    assert first.model_dump(exclude={"path", "key"}) == second.model_dump(exclude={"path", "key"})


@pytest.mark.parametrize("champion", [True, False])
def test_progress_counts_every_pass_over_the_queries(world: World, champion: bool):
    events: list[Event] = []
    evaluation = hitrate.run(world.request(champion=champion), events.append)
    total = NUM_USERS * (7 if champion else 6)
    assert [event.done for event in events] == sorted(event.done for event in events)
    assert (events[-1].done, events[-1].total) == (total, total)
    assert events[-1].metrics["hit_rate_at_5"] == evaluation.exact.hit_rate["5"]
    assert {"exact search", "approximate search", "sweep"} < {event.message for event in events}


def test_an_index_of_other_vectors_is_refused(world: World):
    request = world.request()
    world.items = world.items[::-1]
    other = world.embeddings("other", world.items, world.users, np.arange(NUM_USERS)[::-1])
    with pytest.raises(ValueError, match="an index of other items than the embeddings; run the index stage again"):
        hitrate.run(request.model_copy(update={"embeddings": other}), silent)
    assert not request.output.exists()


def test_an_index_of_other_dimensions_is_refused(world: World):
    request = world.request()
    import faiss

    faiss.write_index(faiss.IndexFlatIP(DIM + 1), str(request.index.faiss))
    with pytest.raises(ValueError, match="an index of 7 dimensions where the embeddings have 6"):
        hitrate.run(request, silent)


def test_a_champion_of_other_users_or_an_item_table_of_other_items_is_refused(world: World):
    request = world.request(champion=True)
    live = request.champion
    assert live is not None
    queries = pq.read_table(live.queries)
    pq.write_table(queries.slice(1), live.queries / "part-00000.parquet")
    with pytest.raises(ValueError, match=r"the champion's queries: 29 ids for the 30 of the embeddings, 'u29' is miss"):
        hitrate.run(request, silent)
    twice = pa.concat_tables([queries, queries.slice(0, 1)])
    pq.write_table(twice, live.queries / "part-00000.parquet")
    with pytest.raises(ValueError, match="31 ids for the 30 of the embeddings; make both anew"):
        hitrate.run(request, silent)
    table = pq.read_table(request.data.items)
    pq.write_table(table.slice(1), request.data.items / "part-00000.parquet")
    with pytest.raises(ValueError, match=r"the item table's ids: 119 ids for the 120 .*, 119 is missing"):
        hitrate.run(request, silent)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"ks": (50, 20), "popularity_k": 20}, "each once, the smallest first"),
        ({"ks": (0, 20), "popularity_k": 20}, "whole numbers from 1 on"),
        ({"sweep": (4, 4)}, "each once"),
        ({"ks": ()}, "at least 1"),
        ({"popularity_k": 7}, "7 is none of ks"),
    ],
)
def test_configs_that_mean_nothing_are_refused(config: dict[str, Any], message: str):
    with pytest.raises(ValidationError, match=message):
        Config.model_validate(config)
