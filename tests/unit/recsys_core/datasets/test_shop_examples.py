"""The shop's clicks as ready-made examples: those of its log, each with what its user had clicked before it."""

import collections
import datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from recsys_core.datasets import _shop_examples, synthetic
from recsys_core.progress import silent

CONFIG = synthetic.Config(
    num_days=3,
    num_users=60,
    new_users_per_day=5,
    num_items=40,
    new_items_per_day=3,
    interactions_per_day=400,
    num_categories=4,
    styles_per_category=2,
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, _shop_examples.Counts]:
    root, log = tmp_path_factory.mktemp("examples"), tmp_path_factory.mktemp("log") / "log"
    synthetic.write(CONFIG, log, silent)
    return root, log, _shop_examples.write(CONFIG, root, silent)


def _rows(folder: Path) -> list[dict[str, Any]]:
    return pq.read_table(folder).to_pylist()


def test_every_click_knows_what_came_before_its_second(made: tuple[Path, Path, _shop_examples.Counts]):
    root, log, counts = made
    before: dict[int, list[tuple[int, int]]] = collections.defaultdict(list)
    items: dict[int, dict[str, Any]] = {}
    users: dict[int, dict[str, Any]] = {}
    num_train = num_evaluation = 0
    for day in (CONFIG.first_day + datetime.timedelta(days=n) for n in range(CONFIG.num_days)):
        partition = f"ds={day}"
        for table, known, key in (("items", items, "item_id"), ("users", users, "user_id")):
            if (log / table / partition).exists():
                known |= {row[key]: row for row in _rows(log / table / partition)}
        clicks = sorted(_rows(log / "interactions" / partition), key=lambda c: (c["user_id"], c["timestamp"]))
        train = _rows(root / "train" / partition)
        num_train += len(train)
        if day > CONFIG.first_day:
            evaluation = _rows(root / "evaluation" / partition)
            num_evaluation += len(evaluation)
            for row in evaluation:
                past = [item for _, item in before[row["user_id"]]][-30:]
                assert row["clicked_items"] == "\x02".join(map(str, past))
                taken = {click["item_id"] for click in clicks if click["user_id"] == row["user_id"]}
                assert (set(row["gt_items"]), row["city"]) == (taken, users[row["user_id"]]["city"])
        for click in clicks:
            before[click["user_id"]].append((click["timestamp"], click["item_id"]))
        expected = collections.Counter()
        for click in clicks:
            past = [item for at, item in before[click["user_id"]] if at < click["timestamp"]][-30:]
            categories = tuple(items[item]["category"] for item in past)
            item = items[click["item_id"]]
            text = "\x02".join(map(str, past))
            expected[click["user_id"], item["item_id"], text, categories, item["brand"], item["price"]] += 1
        assert expected == collections.Counter(
            (
                row["user_id"],
                row["item_id"],
                row["clicked_items"],
                tuple(row["clicked_categories"]),
                row["brand"],
                row["price"],
            )
            for row in train
        )
        assert {row["item_id"]: row for row in _rows(root / "items" / partition)} == items
    assert counts == (CONFIG.num_days, num_train, num_evaluation, len(items))


def test_negatives_are_drawn_by_clicks_so_far(made: tuple[Path, Path, _shop_examples.Counts]):
    root, log, _ = made
    last = CONFIG.first_day + datetime.timedelta(days=CONFIG.num_days - 1)
    header, *lines = (root / "negatives" / f"ds={last}.txt").read_text().splitlines()
    assert header == "id:int64\tweight:float\tattrs:string"
    clicks = collections.Counter(row["item_id"] for row in _rows(log / "interactions"))
    items = {row["item_id"]: row for row in _rows(root / "items" / f"ds={last}")}
    assert len(lines) == len(items)
    for line in lines:
        item, weight, attributes = line.split("\t")
        assert float(weight) == pytest.approx(clicks[int(item)] ** 0.75 + 1, rel=1e-4)
        category, brand, price = attributes.split(":")
        assert category == items[int(item)]["category"]
        assert brand == (items[int(item)]["brand"] or "")
        known = items[int(item)]["price"]
        assert price == "" if known is None else float(price) == pytest.approx(known, rel=1e-4)
