"""Made-up impressions: what is planted is there, longer logs begin with shorter ones, the attainable AUC is true."""

import datetime
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from recsys_core.datasets.labelled import _impressions
from recsys_core.progress import silent

SMALL = {"num_days": 2, "rows_per_day": 4_000, "num_users": 50, "num_items": 30}


def _written(root: Path, **keys):
    config = _impressions.Config.model_validate(SMALL | keys)
    made = _impressions.write(config, root, silent)
    return made, [pq.read_table(folder) for folder in sorted(root.glob("ds=*"))]


def test_the_attainable_auc_is_the_share_of_pairs_that_the_truth_orders():
    scores, labels = np.array([0.1, 0.4, 0.4, 0.9, 0.2]), np.array([False, True, False, True, False])
    # Of 2 * 3 pairs: .4 beats .1 and .2 and ties .4, .9 beats all three.
    assert _impressions._auc(scores, labels) == pytest.approx(5.5 / 6)
    assert _impressions._auc(scores, np.zeros(5, bool)) is None


def test_a_longer_log_begins_with_the_shorter_one_and_has_new_ids_every_day(tmp_path, monkeypatch):
    monkeypatch.setattr(_impressions, "_PART_ROWS", 1_500)
    made, (first, second) = _written(tmp_path / "two", new_users_per_day=9, new_items_per_day=5)
    longer, tables = _written(tmp_path / "three", num_days=3, new_users_per_day=9, new_items_per_day=5)
    assert tables[:2] == [first, second]
    assert longer[:2] == made
    assert json.loads((tmp_path / "two" / "_attainable.json").read_text()) == [d.model_dump(mode="json") for d in made]
    for column, known, new in (("user_id", 50, 9), ("item_id", 30, 5)):
        assert max(first[column].to_pylist()) <= known
        assert known < max(second[column].to_pylist()) <= known + new
    for day, table, found in zip(("2024-01-01", "2024-01-02"), (first, second), made, strict=True):
        seconds = table["timestamp"].to_numpy()
        assert (np.diff(seconds) >= 0).all()
        assert {datetime.datetime.fromtimestamp(s, datetime.UTC).date().isoformat() for s in seconds[[0, -1]]} == {day}
        clicks, conversions = table["click"].to_numpy(), table["conversion"].to_numpy()
        assert (found.num_rows, found.num_clicks, found.num_conversions) == (4_000, clicks.sum(), conversions.sum())
        assert set(clicks) == {0, 1}
        assert not conversions[clicks == 0].any()


def test_the_columns_say_what_is_clicked_and_drift_turns_it(tmp_path):
    """Click rates by age band and category are planted by the seed, not by dates, and opposite after half a turn."""

    def rates(table):
        cells = table.group_by(["age", "category"]).aggregate([("click", "mean")])
        return cells.sort_by([("age", "ascending"), ("category", "ascending")])["click_mean"].to_numpy()

    big = {
        "num_days": 3,
        "rows_per_day": 30_000,
        "num_users": 2_000,
        "num_items": 400,
        "id_effects": 0,
        "drift_days": 4,
    }
    _, (first, _, third) = _written(tmp_path / "shop", **big)
    _, (later, *_) = _written(tmp_path / "later", **big, first_day="2024-02-01")
    _, (other, *_) = _written(tmp_path / "other", **big, seed=1)
    (flat_auc, *_), (flat, *_) = _written(tmp_path / "flat", **big, signal=0)
    assert (rates(first) == rates(later)).all()
    assert np.corrcoef(rates(first), rates(other))[0, 1] < 0.4
    assert rates(first).std() > 1.5 * rates(flat).std()
    assert 0.5 < flat_auc.auc < 0.65  # position and hour stay
    assert np.corrcoef(rates(first), rates(third))[0, 1] < -0.5


def test_shuffled_labels_follow_from_nothing_and_other_days_stay_as_they_were(tmp_path):
    made, tables = _written(tmp_path / "as_is", rows_per_day=20_000)
    broken, shuffled = _written(tmp_path / "broken", rows_per_day=20_000, shuffled_days=["2024-01-02"])
    assert shuffled[0] == tables[0]
    assert broken[0] == made[0]
    assert shuffled[1].drop_columns(["click", "conversion"]) == tables[1].drop_columns(["click", "conversion"])
    assert broken[1].num_clicks == made[1].num_clicks
    assert abs(broken[1].auc - 0.5) < 0.03 < made[1].auc - 0.5


def test_days_that_are_not_made_cannot_be_shuffled_and_a_calendar_ends():
    with pytest.raises(ValidationError, match="shuffled_days: 2024-02-01 is none of 2024-01-01 to 2024-01-12"):
        _impressions.Config.model_validate({"shuffled_days": ["2024-02-01"]})
    with pytest.raises(ValidationError, match="num_days: 1 days are left from 9999-12-31"):
        _impressions.Config.model_validate({"first_day": "9999-12-31"})


def test_likes_go_along_with_clicks_as_far_as_asked_and_change_nothing_else(tmp_path):
    """Compared are rates by age, city and brand: what tastes and styles are made of."""
    found = {}
    for agreement in (None, -1.0, 0.0, 1.0):
        shop = {"like_agreement": agreement, "signal": 2, "position_effect": 0, "rows_per_day": 40_000}
        made, tables = _written(tmp_path / str(agreement), **shop)
        if agreement is None:
            plain = tables
            assert made[0].like_auc is None
            assert "like" not in tables[0].column_names
            continue
        assert [table.drop_columns("like") for table in tables] == plain
        assert made[0].like_auc > 0.8
        keys = [tables[0][name].to_numpy() for name in ("age", "city", "brand")]
        _, cell = np.unique(np.array(["".join(key) for key in zip(*keys, strict=True)]), return_inverse=True)
        counts = np.bincount(cell)
        rates = [np.bincount(cell, tables[0][name].to_numpy()) / counts for name in ("click", "like")]
        common = counts >= 30
        found[agreement] = np.corrcoef(rates[0][common], rates[1][common])[0, 1]
    assert found[1.0] > 0.8
    assert found[-1.0] < -0.6
    assert abs(found[0.0]) < 0.4
