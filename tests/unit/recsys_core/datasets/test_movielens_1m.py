"""MovieLens 1M: the published archive by its times, the Parquet by each user's order."""

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys_core.datasets import movielens_1m
from recsys_core.datasets.movielens_1m import Config
from recsys_core.progress import silent


@pytest.fixture
def official(tmp_path: Path, at: Callable[..., int]) -> Path:
    """Write a tiny ml-1m folder in the published format."""
    folder = tmp_path / "ml-1m"
    folder.mkdir()
    (folder / "users.dat").write_text("1::F::1::10::48067\n2::M::56::16::70072\n")
    (folder / "movies.dat").write_bytes(
        "1::Toy Story (1995)::Animation|Comedy\n2::Léon (1994)::Crime\n".encode("latin-1")
    )
    (folder / "ratings.dat").write_text(f"2::1::5::{at(2000, 4, 26)}\n1::2::3::{at(2000, 4, 25, 23, 59, 59)}\n")
    return folder


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    """Write a tiny folder of Parquet that knows positions and splits only."""
    folder = tmp_path / "parquet"
    folder.mkdir()
    interactions = {
        "user_id": [1, 1, 1, 2, 2, 2, 2],
        "movie_id": [5, 3, 4, 4, 5, 3, 5],
        "position": pa.array([0, 1, 2, 0, 1, 2, 3], pa.int32()),
        "split": ["train", "valid", "test", "train", "train", "valid", "test"],
    }
    users = {"user_id": [1, 2], "gender": ["F", "M"], "age": [1, 56], "occupation": [10, 16], "zip_code": ["4", "7"]}
    movies = {"movie_id": [3, 4, 5], "title": list("abc"), "year": [1995] * 3, "genres": [["Drama"]] * 3}
    for name, columns in (("interactions", interactions), ("users", users), ("movies", movies)):
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")
    return folder


def test_the_archive_goes_by_its_times(
    tmp_path: Path,
    official: Path,
    at: Callable[..., int],
    read_log: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(movielens_1m, "_BLOCK_BYTES", 8)
    counts = movielens_1m.write(Config(source=str(official)), tmp_path / "log", silent)
    assert counts[2:] == (2, 2, 2, 2)
    assert read_log(tmp_path / "log", "interactions") == {
        "2000-04-25": [{"user_id": 1, "item_id": 2, "rating": 3.0, "timestamp": at(2000, 4, 25, 23, 59, 59)}],
        "2000-04-26": [{"user_id": 2, "item_id": 1, "rating": 5.0, "timestamp": at(2000, 4, 26)}],
    }
    assert read_log(tmp_path / "log", "users")["2000-04-26"] == [
        {"user_id": 2, "gender": "M", "age": 56, "occupation": 16, "zip_code": "70072", "zip_prefix": "7"}
    ]
    assert read_log(tmp_path / "log", "items")["2000-04-25"] == [
        {"item_id": 1, "title": "Toy Story", "year": 1995, "genres": ["Animation", "Comedy"]},
        {"item_id": 2, "title": "Léon", "year": 1994, "genres": ["Crime"]},
    ]


def test_the_parquet_becomes_three_days_in_the_order_of_positions(
    tmp_path: Path, parquet: Path, at: Callable[..., int], read_log: Callable[..., Any]
):
    config = Config(source=str(parquet), first_day=datetime.date(2001, 12, 30))
    movielens_1m.write(config, tmp_path / "log", silent)
    days = read_log(tmp_path / "log", "interactions")
    found = {day: [(row["user_id"], row["item_id"], row["timestamp"]) for row in rows] for day, rows in days.items()}
    assert found == {
        "2001-12-30": [(1, 5, at(2001, 12, 30)), (2, 4, at(2001, 12, 30)), (2, 5, at(2001, 12, 30, 0, 0, 1))],
        "2001-12-31": [(1, 3, at(2001, 12, 31, 0, 0, 1)), (2, 3, at(2001, 12, 31, 0, 0, 2))],
        "2002-01-01": [(1, 4, at(2002, 1, 1, 0, 0, 2)), (2, 5, at(2002, 1, 1, 0, 0, 3))],
    }
    assert [row["item_id"] for row in read_log(tmp_path / "log", "items")["2001-12-30"]] == [3, 4, 5]


def test_the_parquet_has_no_ratings_to_judge(tmp_path: Path, parquet: Path):
    with pytest.raises(ValueError, match="leave min_rating out"):
        movielens_1m.write(Config(source=str(parquet), min_rating=4), tmp_path / "log", silent)


@pytest.mark.parametrize("change", [{"split": "dev"}, {"position": -1}, {"position": 86_400}])
def test_a_split_or_position_out_of_range_is_refused(tmp_path: Path, parquet: Path, change: dict[str, Any]):
    path = parquet / "interactions.parquet"
    table = pq.read_table(path)
    row = table.slice(0, 1).to_pylist()[0] | change
    pq.write_table(pa.concat_tables([table, pa.Table.from_pylist([row], table.schema)]), path)
    with pytest.raises(ValueError, match="split must be train, valid or test, and position between 0 and 86399"):
        movielens_1m.write(Config(source=str(parquet)), tmp_path / "log", silent)


def test_ratings_of_another_form_are_refused(tmp_path: Path, official: Path):
    (official / "ratings.dat").write_text("1::2::3\n")
    with pytest.raises(ValueError, match=r"ratings.dat: .*is it the published file"):
        movielens_1m.write(Config(source=str(official)), tmp_path / "log", silent)


def test_the_research_data(tmp_path: Path, recsys_data: Callable[[str], Path]):
    counts = movielens_1m.write(Config(source=str(recsys_data("ml-1m"))), tmp_path / "log", silent)
    assert counts[2:] == (3, 999_611, 6_040, 3_883)
