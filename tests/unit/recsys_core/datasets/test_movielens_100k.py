"""MovieLens 100K: the published archive and its Parquet become the same log."""

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys_core.datasets import movielens_100k
from recsys_core.datasets.movielens_100k import Config
from recsys_core.progress import silent

GENRES = ["unknown", "Action", "Comedy", "Drama"]
ITEMS = [(1, "Toy Story (1995)", "Comedy"), (2, "Amélie", ""), (3, "Seven (Se7en) (1995)", "Action Drama")]
USERS = [(1, 24, "M", "writer", "85711"), (2, 53, "F", "other", "T8H1N"), (3, 30, "F", "artist", "94043")]


@pytest.fixture
def official(tmp_path: Path, at: Callable[..., int]) -> Path:
    """Write a tiny ml-100k folder in the published format."""
    folder = tmp_path / "ml-100k"
    folder.mkdir()
    ratings = [
        (2, 3, 5, at(1997, 9, 21, 23, 59, 59)),
        (1, 1, 3, at(1997, 9, 20)),
        (1, 3, 4, at(1997, 9, 21, 7)),
        (3, 1, 2, at(1997, 9, 22)),
    ]
    (folder / "u.data").write_text("".join("\t".join(map(str, row)) + "\n" for row in ratings))
    (folder / "u.user").write_text("".join("|".join(map(str, row)) + "\n" for row in USERS))
    (folder / "u.genre").write_text("".join(f"{name}|{flag}\n" for flag, name in enumerate(GENRES)) + "\n")
    lines = [
        f"{item}|{title}|01-Jan-1995||http://x|" + "|".join(str(int(name in genres.split())) for name in GENRES)
        for item, title, genres in ITEMS
    ]
    (folder / "u.item").write_bytes("\n".join(lines).encode("latin-1"))
    return folder


def zip_of(folder: Path) -> Path:
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in folder.iterdir():
            archive.write(file, f"ml-100k/{file.name}")
    return path


def parquet_of(folder: Path, at: Callable[..., int]) -> Path:
    target = folder.with_name("parquet")
    target.mkdir()
    rows = [line.split("\t") for line in (folder / "u.data").read_text().splitlines()]
    milliseconds = pa.array([int(row[3]) * 1000 for row in rows], pa.timestamp("ms"))
    interactions = {"user_id": [int(row[0]) for row in rows], "item_id": [int(row[1]) for row in rows]}
    rating = pa.array([float(row[2]) for row in rows], pa.float32())
    pq.write_table(
        pa.table(interactions | {"rating": rating, "timestamp": milliseconds}), target / "interactions.parquet"
    )
    names = ("user_id", "age", "gender", "occupation", "zip_code")
    users = {name: pa.array(column) for name, column in zip(names, zip(*USERS, strict=True), strict=True)}
    pq.write_table(pa.table(users | {"age": users["age"].cast(pa.int32())}), target / "users.parquet")
    items = {
        "item_id": [1, 2, 3],
        "title": ["Toy Story", "Amélie", "Seven (Se7en)"],
        "year": pa.array([1995, None, 1995], pa.int32()),
        "genres": pa.array([["Comedy"], None, ["Action", "Drama"]], pa.list_(pa.string())),
    }
    pq.write_table(pa.table(items), target / "items.parquet")
    return target


@pytest.mark.parametrize("form", ["folder", "zip", "parquet"])
def test_every_form_becomes_the_same_log(
    tmp_path: Path, official: Path, at: Callable[..., int], read_log: Callable[..., Any], form: str
):
    source = {"folder": lambda: official, "zip": lambda: zip_of(official), "parquet": lambda: parquet_of(official, at)}
    counts = movielens_100k.write(Config(source=str(source[form]())), tmp_path / "log", silent)
    assert counts[2:] == (3, 4, 3, 3)
    assert read_log(tmp_path / "log", "interactions") == {
        "1997-09-20": [{"user_id": 1, "item_id": 1, "rating": 3.0, "timestamp": at(1997, 9, 20)}],
        "1997-09-21": [
            {"user_id": 1, "item_id": 3, "rating": 4.0, "timestamp": at(1997, 9, 21, 7)},
            {"user_id": 2, "item_id": 3, "rating": 5.0, "timestamp": at(1997, 9, 21, 23, 59, 59)},
        ],
        "1997-09-22": [{"user_id": 3, "item_id": 1, "rating": 2.0, "timestamp": at(1997, 9, 22)}],
    }
    users = read_log(tmp_path / "log", "users")
    assert {day: [row["user_id"] for row in rows] for day, rows in users.items()} == {
        "1997-09-20": [1],
        "1997-09-21": [2],
        "1997-09-22": [3],
    }
    assert users["1997-09-21"] == [
        {"user_id": 2, "age": 53, "gender": "F", "occupation": "other", "zip_code": "T8H1N", "zip_prefix": "T"}
    ]
    assert read_log(tmp_path / "log", "items") == {
        "1997-09-20": [
            {"item_id": 1, "title": "Toy Story", "year": 1995, "genres": ["Comedy"]},
            {"item_id": 2, "title": "Amélie", "year": None, "genres": None},
            {"item_id": 3, "title": "Seven (Se7en)", "year": 1995, "genres": ["Action", "Drama"]},
        ]
    }


def test_low_ratings_can_be_left_out(tmp_path: Path, official: Path, read_log: Callable[..., Any]):
    counts = movielens_100k.write(Config(source=str(official), min_rating=4), tmp_path / "log", silent)
    assert counts.num_interactions == 2
    # The log starts on the day of the first rating left, and users who rated nothing well are known from then on.
    assert list(read_log(tmp_path / "log", "items")) == ["1997-09-21"]
    assert [row["user_id"] for row in read_log(tmp_path / "log", "users")["1997-09-21"]] == [1, 2, 3]
    with pytest.raises(ValueError, match="no rating is left of 4; lower min_rating 6"):
        movielens_100k.write(Config(source=str(official), min_rating=6), tmp_path / "none", silent)


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        ("u.data", "9\t1\t3\t880000000\n", "name 1 users that the user table lacks, such as 9"),
        ("u.data", "1\t9\t3\t880000000\n", "name 1 films that the film table lacks, such as 9"),
        ("u.data", "1\t1\tgood\t880000000\n", r"u.data: .*good"),
        ("u.user", "4|20|M\n", r"u.user: .*Expected 5 columns, got 3"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, official: Path, file: str, line: str, message: str):
    with (official / file).open("a") as opened:
        opened.write(line)
    with pytest.raises(ValueError, match=message):
        movielens_100k.write(Config(source=str(official)), tmp_path / "log", silent)


def test_a_missing_file_is_named(tmp_path: Path, official: Path):
    shutil.move(official / "u.genre", tmp_path / "u.genre")
    with pytest.raises(ValueError, match=r"one file u.genre is needed, and it holds u.data, u.item, u.user"):
        movielens_100k.write(Config(source=str(official)), tmp_path / "log", silent)


def test_the_research_data(tmp_path: Path, recsys_data: Callable[[str], Path]):
    counts = movielens_100k.write(Config(source=str(recsys_data("ml-100k"))), tmp_path / "log", silent)
    assert (str(counts.first_day), str(counts.last_day)) == ("1997-09-20", "1998-04-22")
    assert counts[2:] == (213, 100_000, 943, 1_682)
