"""The hit rate of tables of the user's own: against loops over everything, in every form, and what is refused."""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from recsys_core import indexes, lookup, readers
from recsys_core.progress import silent
from recsys_core.retrieval.hit_rate import of_tables
from recsys_core.retrieval.hit_rate.interests import merged
from recsys_core.retrieval.hit_rate.of_tables import Request
from recsys_core.retrieval.own_tables import ItemTable, RequestTable

NUM_ITEMS, NUM_REQUESTS, DIM = 90, 40, 4
KS = (1, 5, 20)


class World:
    """Items and requests with surprises: ids with leading zeros, unknown items, a request that wants nothing."""

    def __init__(self, root: Path) -> None:
        self.root = root
        rng = np.random.default_rng(2)
        self.items, self.users = self.vectors(rng, NUM_ITEMS), self.vectors(rng, NUM_REQUESTS)
        self.ids = [f"{item:03d}" for item in range(NUM_ITEMS)]
        self.truth = [
            [self.ids[item] for item in rng.choice(NUM_ITEMS, 1 + user % 4, replace=False)] + ["gone"] * (user % 3 == 0)
            for user in range(NUM_REQUESTS)
        ]
        self.truth[7] = []
        self.seen = [
            [self.ids[item] for item in rng.choice(NUM_ITEMS, user % 6, replace=False)] for user in range(NUM_REQUESTS)
        ]

    @staticmethod
    def vectors(rng: np.random.Generator, num_rows: int) -> np.ndarray:
        # Quarters: their products are exact in any order of addition.
        return (rng.integers(-40, 40, (num_rows, DIM)) / 4).astype(np.float32)

    def write(self, name: str, **columns: Any) -> str:
        path = self.root / f"{name}.parquet"
        pq.write_table(pa.table(columns), path, row_group_size=16)
        return str(path)

    def item_table(self, **changed: Any) -> ItemTable:
        path = self.write("items", **({"item_id": self.ids, "embedding": list(self.items)} | changed))
        return ItemTable(path=path)

    def request_table(self, **changed: Any) -> RequestTable:
        columns = {
            "request_id": [f"r{user}" for user in range(NUM_REQUESTS)],
            "gt_items": self.truth,
            "embedding": list(self.users),
            "seen": self.seen,
        }
        return RequestTable(path=self.write("requests", **(columns | changed)))

    def request(self, **given: Any) -> Request:
        tables = {"items": self.item_table, "requests": self.request_table}
        made = {name: make() for name, make in tables.items() if name not in given}
        return Request.model_validate({"ks": KS, "metric": "ip"} | made | given)

    def expected(self, scores: np.ndarray, k: int, *, masked: bool = False) -> tuple[float, float, float]:
        """Hit rate, recall and NDCG in plain loops; an item's rank is how many items score at least as much."""
        hits, num_truth, recalls, gains = 0, 0, [], []
        for user, wanted in enumerate(self.truth):
            if not wanted:
                continue
            listed = [item for item in range(NUM_ITEMS) if not masked or self.ids[item] not in self.seen[user]]
            ranks = [
                sum(scores[user, other] >= scores[user, item] for other in listed)
                for item in listed
                if self.ids[item] in wanted
            ]
            found = [rank for rank in ranks if rank <= k]
            hits, num_truth = hits + len(found), num_truth + len(wanted)
            recalls.append(len(found) / len(wanted))
            ideal = sum(1 / np.log2(place + 2) for place in range(min(k, len(wanted))))
            gains.append(sum(1 / np.log2(rank + 1) for rank in found) / ideal)
        return hits / num_truth, float(np.mean(recalls)), float(np.mean(gains))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def check(world: World, figures: of_tables.Figures, scores: np.ndarray, *, masked: bool = False) -> None:
    assert (figures.num_queries, figures.num_ground_truth) == (NUM_REQUESTS - 1, sum(map(len, world.truth)))
    for k in KS:
        found = (figures.hit_rate[str(k)], figures.recall[str(k)], figures.ndcg[str(k)])
        assert found == pytest.approx(world.expected(scores, k, masked=masked))


def by_metric(queries: np.ndarray, items: np.ndarray, metric: str) -> np.ndarray:
    products = queries.astype(np.float64) @ items.T.astype(np.float64)
    if metric == "cosine":
        products /= np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(items, axis=1)
    return -((queries[:, None] - items[None]) ** 2).sum(axis=2) if metric == "l2" else products


@pytest.mark.parametrize("metric", ["ip", "l2", "cosine"])
@pytest.mark.parametrize("index", ["flat", "ivf_flat", "hnsw"])
def test_the_figures_are_those_of_loops(world: World, metric: str, index: str):
    kind = {"kind": index} | ({"ef_search": 500} if index == "hnsw" else {})
    measured = of_tables.run(world.request(metric=metric, index=kind), silent)
    check(world, measured.figures, by_metric(world.users, world.items, metric))
    unknown = sum(item == "gone" for wanted in world.truth for item in wanted)
    assert (measured.num_items, measured.num_unknown, measured.num_empty) == (NUM_ITEMS, unknown, 1)


def test_texts_and_arrays_say_the_same(world: World):
    """Whatever a column's form, it is the same vector and the same ids."""
    expected = of_tables.run(world.request(), silent).figures
    texts = [",".join(map(str, row)) for row in world.users.tolist()]
    truths = [",".join(wanted) for wanted in world.truth]
    forms: dict[str, list[Any]] = {
        "embedding": [
            pa.array(list(world.users), pa.list_(pa.float64())),
            pa.array(list(world.users), pa.large_list(pa.float32())),
            pa.array(list(world.users), pa.list_(pa.float32(), DIM)),
            pa.array(texts),
            pa.array([f"[{text}]" for text in texts]),
            pa.array([text.replace(",", " , ") for text in texts]).dictionary_encode(),
        ],
        "gt_items": [
            pa.array(truths),
            pa.array([wanted or None for wanted in truths], pa.large_string()),
            pa.array([json.dumps(wanted) for wanted in world.truth]),
        ],
    }
    for column, arrays in forms.items():
        for array in arrays:
            assert (
                of_tables.run(world.request(requests=world.request_table(**{column: array})), silent).figures
                == expected
            )
    parted = world.request_table(
        gt_items=[wanted.replace(",", ";") for wanted in truths], embedding=[text.replace(",", ";") for text in texts]
    ).model_copy(update={"separator": ";"})
    assert of_tables.run(world.request(requests=parted), silent).figures == expected


def test_items_by_number_are_found_by_numbers_in_any_form(world: World):
    numbers = [[int(item) for item in wanted if item != "gone"] or [10**6] for wanted in world.truth]
    items = world.item_table(item_id=pa.array(range(NUM_ITEMS), pa.int32()))
    figures = [
        of_tables.run(world.request(items=items, requests=world.request_table(gt_items=form)), silent).figures
        for form in (numbers, [",".join(map(str, wanted)) for wanted in numbers], [wanted[:1] for wanted in numbers])
    ]
    assert figures[0] == figures[1]
    single = world.request_table(gt_items=[wanted[0] for wanted in numbers])
    assert of_tables.run(world.request(items=items, requests=single), silent).figures == figures[2]


def test_csv_in_and_csv_out(world: World):
    # With a letter before: 007 of a CSV file is the number 7.
    table = pa.table(
        {"id": [f"i{item}" for item in world.ids], "emb": [" ".join(map(str, row)) for row in world.items.tolist()]}
    )
    truth = [" ".join(f"i{item}" for item in wanted) for wanted in world.truth]
    pacsv.write_csv(table, world.root / "items.csv")
    requests = world.request_table(gt_items=truth, embedding=[" ".join(map(str, row)) for row in world.users.tolist()])
    requests = requests.model_copy(update={"separator": " "})
    items = ItemTable(path=str(world.root / "items.csv"), id_column="id", vector_column="emb", separator=" ")
    out = str(world.root / "details.csv")
    measured = of_tables.run(world.request(items=items, requests=requests, details=out), silent)
    check(world, measured.figures, by_metric(world.users, world.items, "ip"))
    written = readers.read_all(readers.build(readers.infer(out)))
    assert written.num_rows == NUM_REQUESTS
    assert len(json.loads(written["topk_ids"][0].as_py())) == max(KS)


def test_seen_items_take_up_no_places(world: World):
    requests = world.request_table().model_copy(update={"seen_column": "seen"})
    details = str(world.root / "details")
    figures = of_tables.run(world.request(requests=requests, details=details), silent).figures
    check(world, figures, by_metric(world.users, world.items, "ip"), masked=True)
    for row, seen in zip(readers.read_all(readers.opened(Path(details))).to_pylist(), world.seen, strict=True):
        assert not {*row["topk_ids"]} & {*seen}
        assert len(row["topk_ids"]) == max(KS)


def test_details_are_rows_of_the_requests_in_their_order(world: World):
    out, details = str(world.root / "totals.orc"), str(world.root / "details")
    measured = of_tables.run(world.request(output=out, details=details), silent)
    scores = by_metric(world.users, world.items, "ip")
    rows = readers.read_all(readers.opened(Path(details))).to_pylist()
    assert [row["request_id"] for row in rows] == [f"r{user}" for user in range(NUM_REQUESTS)]
    for user, row in enumerate(rows):
        assert row["topk_dists"] == sorted(scores[user], reverse=True)[: max(KS)]
        assert [scores[user, int(item)] for item in row["topk_ids"]] == row["topk_dists"]
        assert {*row["hit_ids"]} <= {*row["topk_ids"]} & {*world.truth[user]}
        assert row["hits_at_20"] == len(row["hit_ids"])
        wanted = len(world.truth[user])
        assert row["hit_rate"] == (len(row["hit_ids"]) / wanted if wanted else None)
    hits = sum(row["hits_at_20"] for row in rows)
    assert measured.figures.hit_rate["20"] == pytest.approx(hits / measured.figures.num_ground_truth)
    totals = readers.read_all(readers.build(readers.infer(out))).to_pylist()
    assert [row["k"] for row in totals] == list(KS)
    assert {str(row["k"]): row["ndcg"] for row in totals} == measured.figures.ndcg


def test_a_list_is_no_longer_than_there_are_items(world: World):
    few = ItemTable(path=world.write("few", item_id=world.ids[:3], embedding=list(world.items[:3])))
    details = str(world.root / "details")
    of_tables.run(
        world.request(items=few, details=details, index={"kind": "ivf_flat", "nlist": 2, "nprobe": 1}), silent
    )
    lengths = {len(row["topk_ids"]) for row in readers.read_all(readers.opened(Path(details))).to_pylist()}
    assert max(lengths) <= 3
    assert min(lengths) < 3


def test_an_item_counts_by_the_interest_that_is_closest(world: World):
    rng = np.random.default_rng(4)
    interests = np.stack([world.users, world.vectors(rng, NUM_REQUESTS), world.vectors(rng, NUM_REQUESTS)], axis=1)
    scores = np.stack([by_metric(interests[:, one], world.items, "ip") for one in range(3)])
    flat = list(interests.reshape(NUM_REQUESTS, -1))
    requests = world.request_table(embedding=flat).model_copy(update={"num_interests": 3})
    check(world, of_tables.run(world.request(requests=requests), silent).figures, scores.max(axis=0))
    nested = world.request_table(embedding=[list(map(list, row)) for row in interests.tolist()])
    nested = nested.model_copy(update={"num_interests": 3})
    check(world, of_tables.run(world.request(requests=nested), silent).figures, scores.max(axis=0))
    # A column says how many; what a row is padded with is not looked at.
    counts = np.arange(NUM_REQUESTS) % 3 + 1
    padded = np.where(np.arange(3 * DIM) < counts[:, None] * DIM, flat, np.nan)
    requests = world.request_table(embedding=list(padded), interests=counts)
    requests = requests.model_copy(update={"interests_column": "interests"})
    best = np.stack([scores[:count, user].max(axis=0) for user, count in enumerate(counts)])
    check(world, of_tables.run(world.request(requests=requests), silent).figures, best)


def test_merged_lists_have_each_item_once():
    ids = np.array([[4, 2, -1], [2, 4, 7], [5, -1, -1]])
    scores = np.array([[9, 3, -np.inf], [8, 7, 6], [1, -np.inf, -np.inf]], np.float32)
    found, best = merged(ids, scores, np.array([2, 1]))
    assert found.tolist() == [[4, 2, 7], [5, -1, -1]]
    assert best[0].tolist() == [9, 8, 6]


def test_an_index_that_is_built_already_is_searched(world: World):
    kind = lookup.component(indexes.CATALOGUE, "ivf_flat").Config(nlist=9, nprobe=9)
    built = indexes.build(kind, world.items, pa.array(world.ids), "l2", 0, silent)
    folder = world.root / "index"
    folder.mkdir()
    built.save(folder)
    measured = of_tables.run(world.request(folder=folder, metric="l2"), silent)
    check(world, measured.figures, by_metric(world.users, world.items, "l2"))
    with pytest.raises(ValueError, match="an index by l2, not by ip"):
        of_tables.run(world.request(folder=folder), silent)
    other = world.item_table(item_id=changed(world.ids, 4, "another"))
    with pytest.raises(ValueError, match="an index of other items than"):
        of_tables.run(world.request(folder=folder, metric="l2", items=other), silent)
    wide = world.item_table(embedding=[[1.0] * 5] * NUM_ITEMS)
    with pytest.raises(ValueError, match="an index of 4 dimensions where the items have 5"):
        of_tables.run(world.request(folder=folder, metric="l2", items=wide), silent)


def changed(rows: Sequence[Any], row: int, value: Any) -> list[Any]:
    return [*rows[:row], value, *rows[row + 1 :]]


def bad_items(world: World) -> dict[str, tuple[dict[str, Any], str]]:
    rows = world.items.tolist()
    return {
        "nan": (
            {"embedding": changed(rows, 3, [1.0, np.nan, 0, 0])},
            r"'003' has a vector with NaN or infinity \(1 of",
        ),
        "zero": ({"embedding": changed(rows, 3, [0.0] * DIM)}, "'003' has a zero vector"),
        "short": ({"embedding": changed(rows, 3, [1.0])}, "'003' has a vector of another length than 4"),
        "null": ({"embedding": changed(rows, 3, None)}, "'003' has no vector"),
        "hole": ({"embedding": changed(rows, 3, [1.0, None, 2, 3])}, "'003' has a vector with a null in it"),
        "text": (
            {"embedding": changed([",".join(map(str, row)) for row in rows], 3, "1,2,x,3")},
            "'003': 'x' where a n",
        ),
        "number": ({"embedding": [1.0] * NUM_ITEMS}, "double where a list of numbers, or a text of them, is needed"),
        "twice": ({"item_id": changed(world.ids, 20, "003")}, "item_id '003' stands there more than once"),
        "no id": ({"item_id": changed(world.ids, 20, None)}, "item_id: row 20 has no id"),
        "fraction": ({"item_id": np.arange(NUM_ITEMS) / 2}, "item_id: row 1: id 0.5 is no whole number"),
    }


def bad_requests(world: World) -> dict[str, tuple[dict[str, Any], str]]:
    rows = world.users.tolist()
    return {
        "long": ({"embedding": changed(rows, 3, [1.0] * 8)}, "'r3' has other than 4 numbers, which the items' vectors"),
        "zero": ({"embedding": changed(rows, 30, [0.0] * DIM)}, "'r30' has a zero vector"),
        "twice": ({"gt_items": changed(world.truth, 5, ["001", "001"])}, "'r5' has the same item twice"),
        "null": ({"gt_items": changed(world.truth, 5, ["001", None])}, "an item that is null in a list"),
        "kind": ({"gt_items": [[1]] * NUM_REQUESTS}, "ids of type int64 where those to match are string"),
        "json": ({"gt_items": ["[001]"] * NUM_REQUESTS}, "gt_items: a text in brackets that is no JSON list of ids"),
        "no id": ({"request_id": changed(["r"] * NUM_REQUESTS, 19, None)}, "request_id: row 19 has no id"),
        "nothing": ({"gt_items": pa.nulls(NUM_REQUESTS, pa.list_(pa.string()))}, "gt_items is empty in every row"),
    }


def test_bad_rows_are_named_and_nothing_is_written(world: World):
    out, details = world.root / "totals", world.root / "details"
    cases = itertools.chain(
        ((name, {"items": world.item_table}, *case) for name, case in bad_items(world).items()),
        ((name, {"requests": world.request_table}, *case) for name, case in bad_requests(world).items()),
    )
    for name, table, columns, message in cases:
        ((key, made),) = table.items()
        asked = world.request(output=str(out), details=str(details)).model_copy(update={key: made(**columns)})
        with pytest.raises(ValueError, match=message):
            of_tables.run(asked, silent)
        assert not out.exists(), name
        assert not details.exists(), name
        assert not [*world.root.glob(".*.partial")], name
        world.item_table(), world.request_table()


def test_what_is_not_there_is_named(world: World):
    missing = world.item_table().model_copy(update={"vector_column": "embeding"})
    with pytest.raises(ValueError, match=r"no column 'embeding'; did you mean 'embedding'\?; there are item_id, embed"):
        of_tables.run(world.request(items=missing), silent)
    with pytest.raises(ValueError, match="no such file or directory"):
        of_tables.run(world.request(items=ItemTable(path=str(world.root / "nowhere"))), silent)
    empty = world.item_table(item_id=pa.array([], pa.string()), embedding=pa.array([], pa.list_(pa.float32())))
    with pytest.raises(ValueError, match="no rows, so there is nothing to search"):
        of_tables.run(world.request(items=empty), silent)


def test_a_zero_vector_has_a_distance(world: World):
    items = world.item_table(embedding=[[0.0] * DIM, *world.items[1:].tolist()])
    world.items[0] = 0
    measured = of_tables.run(world.request(items=items, metric="l2"), silent)
    check(world, measured.figures, by_metric(world.users, world.items, "l2"))
