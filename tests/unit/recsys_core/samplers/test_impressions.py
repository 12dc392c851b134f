"""Negatives that were shown and not clicked: by hand, and what is refused."""

import datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys_core.samplers import impressions
from recsys_core.samplers.impressions import Config, Sampler

DAY = datetime.date(2024, 1, 3)
ITEMS, WEIGHTS = pa.array([7, 8, 9]), np.array([1.0, 1.0, 2.0])


def _write(root, day, **columns):
    folder = root / f"ds=2024-01-0{day}"
    folder.mkdir(parents=True)
    pq.write_table(pa.table(columns), folder / "part-00000.parquet")
    return root


@pytest.fixture
def source(tmp_path):
    _write(tmp_path, 1, item_id=[7] * 50, click=[0] * 50)
    # Item 5 was withdrawn; what is clicked does not count.
    _write(tmp_path, 2, item_id=[7, 8, 5, 9], click=[0, 0, 0, 1])
    _write(tmp_path, 3, item_id=[8, 8], click=[False, False])
    _write(tmp_path, 4, item_id=[9] * 50, click=[0] * 50)
    return tmp_path


def test_shown_items_are_mixed_with_weighted_ones_by_the_ratio(source):
    config = Config(source=str(source), window_days=2, ratio=0.2, num_negatives=100_000)
    # Of days 2 and 3: item 7 once, 8 three times.
    expected = 0.2 * np.array([1, 3, 0]) / 4 + 0.8 * np.array([1, 1, 2]) / 4
    mixed = impressions.mixed(config, DAY, ITEMS, WEIGHTS)
    assert mixed == pytest.approx(expected)
    sampler = Sampler(config, mixed)
    assert np.exp(sampler.log_probability) == pytest.approx(expected)
    drawn = np.bincount(sampler.draw(np.random.default_rng(0)), minlength=3) / sampler.num_negatives
    assert drawn == pytest.approx(expected, abs=0.01)


def test_what_is_counted_changes_with_its_days_alone(source):
    config = Config(source=str(source), window_days=2)
    before = impressions.fingerprint(config, DAY)
    for day, is_same in ((1, True), (4, True), (2, False)):
        path = source / f"ds=2024-01-0{day}" / "part-00001.parquet"
        pq.write_table(pa.table({"item_id": [7], "click": [0]}), path)
        assert (impressions.fingerprint(config, DAY) == before) == is_same
    # A table that begins within the window is counted from its first day on.
    assert len(impressions.parts(Config(source=str(source), window_days=30), DAY)) == 3


def test_rows_that_are_no_impressions_are_refused(source, tmp_path):
    with pytest.raises(ValueError, match="no impressions of 2024-01-05; join them first"):
        impressions.mixed(Config(source=str(source)), datetime.date(2024, 1, 5), ITEMS, WEIGHTS)
    for name, columns, message in (
        ("label", {"item_id": [7, 8], "click": [0, 2]}, "row 1, column 'click': 2 is neither 0 nor 1"),
        ("null", {"item_id": [7, 8], "click": [0, None]}, "row 1, column 'click': None is neither 0 nor 1"),
        ("text", {"item_id": ["7"], "click": [0]}, "column 'item_id' is string where the item table's ids are int64"),
        ("other", {"item_id": [1], "click": [0]}, "of 1 rows without a click none is of an item of the item table"),
        ("clicked", {"item_id": [7], "click": [1]}, "of 0 rows without a click none is of an item"),
        ("column", {"item": [7], "click": [1]}, "no column 'item_id', which sampler.item names"),
    ):
        root = _write(tmp_path / name, 3, **columns)
        with pytest.raises(ValueError, match=message):
            impressions.mixed(Config(source=str(root)), DAY, ITEMS, WEIGHTS)


def test_the_share_of_shown_items_is_no_whole():
    for ratio in (0, 1):
        with pytest.raises(ValueError, match="ratio"):
            Config(source="x", ratio=ratio)
