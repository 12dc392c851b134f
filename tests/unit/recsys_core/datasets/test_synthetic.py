"""The made-up shop: the same bytes again, and the structure that a model is to find."""

import datetime
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from recsys_core.datasets import _checks, base, synthetic
from recsys_core.datasets._shop import BLOCK_ROWS, blocks
from recsys_core.datasets.synthetic import Config, Shop
from recsys_core.progress import Event, silent

SMALL = Config(
    num_days=4,
    num_users=500,
    new_users_per_day=20,
    num_items=300,
    new_items_per_day=5,
    interactions_per_day=1_500,
    num_categories=6,
    styles_per_category=3,
)
# Two and a bit blocks of users, so that blocks can be taken in any order.
MEDIUM = Config(num_days=5, num_users=2 * BLOCK_ROWS, num_items=1_000, interactions_per_day=20_000)


def digests(root: Path) -> dict[str, str]:
    return {str(f.relative_to(root)): hashlib.md5(f.read_bytes()).hexdigest() for f in root.rglob("*.parquet")}


def clicks(shop: Shop, index: int) -> pa.Table:
    return pa.concat_tables(synthetic.interactions(shop, index, block) for block in blocks(shop.num_users(index)))


@pytest.fixture(scope="module")
def medium() -> tuple[Shop, list[pa.Table]]:
    shop = Shop(MEDIUM)
    return shop, [clicks(shop, index) for index in range(MEDIUM.num_days)]


def test_the_same_seed_makes_the_same_bytes_and_a_longer_log_begins_with_the_shorter(tmp_path: Path):
    synthetic.write(SMALL, tmp_path / "a", silent)
    synthetic.write(SMALL.model_copy(update={"num_days": 2}), tmp_path / "b", silent)
    synthetic.write(SMALL.model_copy(update={"seed": 1}), tmp_path / "c", silent)
    whole, beginning, other = digests(tmp_path / "a"), digests(tmp_path / "b"), digests(tmp_path / "c")
    assert set(beginning) < set(whole)
    assert {name: whole[name] for name in beginning} == beginning
    assert set(other) == set(whole)
    assert not set(other.values()) & set(whole.values())


def test_a_block_is_the_same_made_alone_or_after_others():
    alone = Shop(MEDIUM)
    after = Shop(MEDIUM)
    for block in (0, 1):
        synthetic.interactions(after, 3, block)
    for made in (synthetic.interactions, synthetic.user_rows):
        assert made(after, 3, 2).equals(made(alone, 3, 2))
    assert synthetic.item_rows(after, 3, 0).equals(synthetic.item_rows(alone, 3, 0))


def test_the_log_passes_the_checks_and_is_counted(tmp_path: Path):
    events: list[Event] = []
    counts = synthetic.write(SMALL, tmp_path, events.append)
    last = SMALL.first_day + datetime.timedelta(days=3)
    checked = _checks.check(tmp_path, last, silent)
    assert (counts.first_day, counts.last_day, counts.num_days) == (SMALL.first_day, last, 4)
    assert counts.num_interactions == sum(day.num_interactions for day in checked.days)
    assert [(event.done, event.total, event.unit) for event in events] == [(day, 4, "days") for day in (1, 2, 3, 4)]
    assert checked.columns["items"]["tags"] == "list<element: string>"


def test_large_days_are_cut_into_files_in_the_order_of_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(synthetic, "_SLICE_ROWS", 500)
    synthetic.write(SMALL, tmp_path, silent)
    files = sorted((tmp_path / "interactions" / "ds=2024-01-01").iterdir())
    seconds = [pq.ParquetFile(path).read()["timestamp"].to_pylist() for path in files]
    assert len(files) > 1
    assert sum(seconds, []) == sorted(sum(seconds, []))  # noqa: RUF017


def test_users_and_items_are_new_every_day(tmp_path: Path, read_log: Callable[..., Any]):
    synthetic.write(SMALL, tmp_path, silent)
    for table, key, at_first, per_day in (("users", "user_id", 500, 20), ("items", "item_id", 300, 5)):
        known: set[int] = set()
        for index, rows in enumerate(read_log(tmp_path, table).values()):
            new = {row[key] for row in rows} - known
            assert len(new) == (per_day if index else at_first)
            known |= new
    users = read_log(tmp_path, "users")["2024-01-02"]
    acting = {row["user_id"] for row in read_log(tmp_path, "interactions")["2024-01-02"]}
    # Users who register do so to click.
    assert set(range(501, 521)) <= acting
    assert len(users) > 20, "some users change their interests"
    later = [row for day, rows in read_log(tmp_path, "items").items() if day > "2024-01-01" for row in rows]
    assert any(row["item_id"] <= 300 for row in later), "some prices change"


def test_a_shop_may_stand_still(tmp_path: Path, read_log: Callable[..., Any]):
    still = {"num_days": 2, "new_users_per_day": 0, "new_items_per_day": 0, "missing_share": 0.0}
    synthetic.write(SMALL.model_copy(update=still), tmp_path, silent)
    users = read_log(tmp_path, "users")["2024-01-02"]
    assert all(row["user_id"] <= 500 for row in users)
    assert all(value is not None for row in read_log(tmp_path, "items")["2024-01-01"] for value in row.values())


def test_fields_are_missing_as_often_as_asked(medium: tuple[Shop, list[pa.Table]]):
    shop, _ = medium
    users = pa.concat_tables(synthetic.user_rows(shop, 0, block) for block in blocks(shop.num_users(0)))
    items = synthetic.item_rows(shop, 0, 0)
    for table, names in ((users, ("age", "gender", "interests")), (items, ("brand", "price", "tags"))):
        for name in names:
            # Five standard deviations of a share of a tenth.
            margin = 5 * np.sqrt(0.1 * 0.9 / table.num_rows)
            assert table[name].null_count / table.num_rows == pytest.approx(0.1, abs=margin), name
    assert users["city"].null_count == items["category"].null_count == 0
    assert {len(tags) for tags in items["tags"].to_pylist() if tags is not None} == {1, 2, 3, 4}


def test_a_day_has_about_as_many_clicks_as_asked_and_no_pair_twice(medium: tuple[Shop, list[pa.Table]]):
    _, days = medium
    for day in days:
        assert day.num_rows == pytest.approx(MEDIUM.interactions_per_day, rel=0.25)
        assert day.group_by(["user_id", "item_id"]).aggregate([]).num_rows == day.num_rows


def test_popularity_is_a_power_law(medium: tuple[Shop, list[pa.Table]]):
    _, days = medium
    counts = np.sort(np.bincount(pa.concat_tables(days)["item_id"].to_numpy(), minlength=MEDIUM.num_items))
    ranks = np.arange(1, len(counts) + 1)
    gini = (2 * ranks - len(counts) - 1) @ counts / (len(counts) * counts.sum())
    assert 0.4 < gini < 0.7
    head = np.log(counts[::-1][10:300])
    slope = np.polyfit(np.log(ranks[10:300]), head, 1)[0]
    assert -0.9 < slope < -0.3


def test_clicks_of_a_session_stay_in_a_category(medium: tuple[Shop, list[pa.Table]]):
    shop, days = medium
    category = shop.stock(0).style // MEDIUM.styles_per_category
    day = days[0].sort_by([("user_id", "ascending"), ("timestamp", "ascending")])
    user, seconds = day["user_id"].to_numpy(), day["timestamp"].to_numpy()
    kind = category[day["item_id"].to_numpy() - 1]
    together = (user[1:] == user[:-1]) & (seconds[1:] - seconds[:-1] < 120)
    same = (kind[1:] == kind[:-1])[together].mean()
    by_chance = (np.random.default_rng(0).permutation(kind)[1:] == kind[:-1]).mean()
    assert same > 0.6
    assert by_chance < 0.15


def test_tastes_drift(medium: tuple[Shop, list[pa.Table]]):
    shop, _ = medium
    rows = np.arange(1_000)
    today, tomorrow, later = (shop.affinity(0, index, rows).ravel() for index in (0, 1, 12))
    near, far = np.corrcoef(today, tomorrow)[0, 1], np.corrcoef(today, later)[0, 1]
    assert near > 0.95
    assert 0.1 < far < 0.8
    steady = Shop(MEDIUM.model_copy(update={"drift": 0.0}))
    assert np.array_equal(steady.affinity(0, 0, rows), steady.affinity(0, 12, rows))


def test_fields_reveal_tastes(medium: tuple[Shop, list[pa.Table]]):
    """A user clicks in the categories named as interests far more often than others do."""
    shop, days = medium
    users = pa.concat_tables(synthetic.user_rows(shop, 0, block) for block in blocks(shop.num_users(0)))
    interests = dict(zip(users["user_id"].to_pylist(), users["interests"].to_pylist(), strict=True))
    category = shop.stock(0).style // MEDIUM.styles_per_category
    known = [
        (f"category_{category[item - 1]:02d}", interests[user])
        for user, item in zip(days[0]["user_id"].to_pylist(), days[0]["item_id"].to_pylist(), strict=True)
        if interests.get(user)
    ]
    share = np.mean([clicked in named for clicked, named in known])
    others = [named for _, named in known[len(known) // 2 :] + known[: len(known) // 2]]
    swapped = np.mean([clicked in named for (clicked, _), named in zip(known, others, strict=True)])
    assert share > 0.3
    assert share > 2 * swapped


def test_who_knows_the_tastes_beats_popularity_and_item_item(medium: tuple[Shop, list[pa.Table]]):
    """Hit rate@50 of the last day: what a model can reach at most, against what needs no model."""
    shop, days = medium
    truth = days[-1]
    past = pa.concat_tables(days[:-1])
    users = np.unique(truth["user_id"].to_numpy())[:1_500]
    num_items = shop.num_items(MEDIUM.num_days - 1)
    wanted = np.zeros((shop.num_users(4) + 1, num_items), bool)
    wanted[truth["user_id"].to_numpy(), truth["item_id"].to_numpy() - 1] = True
    taken = np.zeros((shop.num_users(4) + 1, num_items), np.float32)
    taken[past["user_id"].to_numpy(), past["item_id"].to_numpy() - 1] = 1
    popularity = taken.sum(0)
    cosine = taken.T @ taken / np.sqrt(np.maximum(np.outer(popularity, popularity), 1))
    np.fill_diagonal(cosine, 0)

    def hit_rate(scores: np.ndarray) -> float:
        best = np.argpartition(-scores, 50, axis=1)[:, :50]
        return np.take_along_axis(wanted[users], best, 1).sum() / wanted[users].sum()

    oracle = hit_rate(synthetic.probabilities(shop, 4, users))
    by_popularity = hit_rate(np.broadcast_to(popularity, (len(users), num_items)))
    item_item = hit_rate(taken[users] @ cosine + popularity / popularity.max() * 1e-6)
    assert oracle > 2.5 * by_popularity
    assert oracle > 1.5 * item_item
    assert item_item > by_popularity, "clicks of one user belong together"


def test_clicks_follow_the_probabilities(medium: tuple[Shop, list[pa.Table]]):
    """Over all users the clicks on an item are as many as the probabilities add up to (but no pair counts twice)."""
    shop, days = medium
    per_user = np.bincount(days[0]["user_id"].to_numpy(), minlength=shop.num_users(0) + 1)[1:]
    users = np.flatnonzero(per_user)
    expected = np.zeros(shop.num_items(0))
    for part in np.array_split(users, 8):
        expected += per_user[part] @ synthetic.probabilities(shop, 0, part + 1)
    found = np.bincount(days[0]["item_id"].to_numpy() - 1, minlength=shop.num_items(0))
    assert expected.sum() == pytest.approx(found.sum(), rel=1e-3)
    assert np.corrcoef(expected, found)[0, 1] > 0.95


def test_without_taste_everybody_chooses_alike():
    shop = Shop(SMALL.model_copy(update={"taste_strength": 0.0}))
    one, other = synthetic.probabilities(shop, 1, np.array([1, 400]))
    assert np.allclose(one, other)
    assert np.allclose(one, shop.stock(1).popularity / shop.stock(1).popularity.sum(), rtol=1e-5)


def test_a_block_in_which_no_user_acts_is_empty():
    quiet = Shop(Config(num_users=BLOCK_ROWS + 1, interactions_per_day=1, new_users_per_day=0))
    table = synthetic.interactions(quiet, 0, 1)
    assert table.num_rows == 0
    assert table.schema == synthetic.interactions(Shop(SMALL), 0, 0).schema


@pytest.mark.parametrize("bad", [{"num_days": 1}, {"drift": 0.6}, {"source": "shop"}, {"num_user": 5}])
def test_a_shop_that_cannot_be_is_refused(bad: dict[str, Any]):
    with pytest.raises(ValidationError):
        Config.model_validate(bad)


def test_days_are_cut_at_midnight():
    shop = Shop(SMALL.model_copy(update={"interactions_per_day": 20_000}))
    seconds = synthetic.interactions(shop, 2, 0)["timestamp"].to_numpy()
    midnight = (base.day_number(SMALL.first_day) + 2) * base.DAY_SECONDS
    assert midnight <= seconds.min() <= seconds.max() == midnight + base.DAY_SECONDS - 1
