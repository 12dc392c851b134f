"""Three days of clicks, by hand."""

from pathlib import Path

import pytest
from small_log import click, item_row, make_log, user_row

from recsys_core.artifacts import Dataset


@pytest.fixture
def small(tmp_path: Path) -> Dataset:
    clicks = [
        click(0, 10, 1, "a"),
        click(0, 20, 1, "b"),
        click(0, 20, 2, "a"),
        click(1, 5, 1, "c"),
        click(1, 5, 1, "a"),  # the same second: neither sees the other
        click(1, 9, 1, "b"),
        click(2, 1, 2, "d"),
        click(2, 2, 3, "a"),
        click(2, 3, 2, "a"),
        click(2, 4, 2, "d"),
    ]
    users = [user_row(0, 1, "x"), user_row(0, 2, "y"), user_row(1, 1, "z"), user_row(2, 2, "w"), user_row(2, 3, None)]
    items = [
        item_row(0, "a", ["g1", "g2"], 5),
        item_row(0, "b", None, 6),
        item_row(0, "unsold", ["g1"], None),
        item_row(1, "c", ["g3"], None),
        item_row(1, "b", [], 7),
        item_row(2, "d", ["g1"], 1),
        item_row(2, "a", ["late"], 9),
    ]
    return make_log(tmp_path / "log", clicks, users, items)
