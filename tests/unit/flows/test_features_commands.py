"""`dayline features show`: what it says of features, and the rows before and after."""

import datetime
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from flows.cli import app

# The features are those of the day that `made_day` makes.
CONFIG: dict[str, Any] = {
    "name": "shop",
    "data": {"kind": "daily", "source": "nothing"},
    "features": {
        "embedding_dim": 8,
        "query": [
            {"kind": "id", "name": "segment", "num_embeddings": 16},
            {"kind": "raw", "name": "age"},
            {"kind": "sequence", "name": "history", "column": "history__item_id", "table": "item_id"},
        ],
        "item": [{"kind": "id", "name": "item_id", "num_embeddings": 100}],
    },
    "model": {"kind": "two_tower"},
    "sampler": {"kind": "weighted"},
}
LABELLED = {
    "name": "clicks",
    "data": {"kind": "splits", "source": "nothing", "day": "2024-03-01"},
    "ranking": {},
    "features": {
        "embedding_dim": 4,
        "query": [
            {"kind": "id", "name": "city", "encoding": "given", "vocabulary": ["Oslo", "Rome"], "default": "Rome"},
            {"kind": "id", "name": "town", "column": "city", "encoding": "given", "vocabulary": ["Oslo", "Rome"]},
            {"kind": "id", "name": "cell", "encoding": "hash", "num_embeddings": 5, "input": "encoded"},
            {"kind": "raw", "name": "age", "normalizer": "zscore", "fill": -1},
            {
                "kind": "combo",
                "name": "both",
                "columns": ["city", "cell"],
                "output": {"kind": "id", "num_embeddings": 9},
            },
        ],
        "item": [],
    },
    "model": {"kind": "dlrm"},
}
ROWS = {"city": ["Oslo", None, "Bern"], "cell": [[4], [0, 1], []], "age": [1.0, 3.0, None]}


def write(folder: Path, config: dict[str, Any]) -> str:
    (folder / "c.yaml").write_text(yaml.safe_dump(config | {"run_root": str(folder / "runs")}))
    return str(folder / "c.yaml")


def show(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["features", "show", *arguments], catch_exceptions=False)


@pytest.fixture
def clicks(tmp_path: Path) -> list[str]:
    pq.write_table(pa.table(ROWS), tmp_path / "rows.parquet")
    return [write(tmp_path, LABELLED), "--data", str(tmp_path / "rows.parquet")]


def test_every_figure_by_hand(clicks: list[str]) -> None:
    found = json.loads(show(*clicks, "--json").stdout)
    assert [one["name"] for one in found["features"]] == ["city", "town", "cell", "age", "both"]
    city, town, cell, age, both = found["features"]
    assert city == {
        "name": "city",
        "side": "query",
        "kind": "id",
        "output": "id",
        "encoding": "given",
        "columns": ["city"],
        "cardinality": 3,
        "known": None,
        "default": "Rome",
        "pooling": "mean",
        "table": "city",
        "dim": 4,
        "num_bytes": 3 * 4 * 4,
        "fitted": None,
        "encoded_upstream": False,
        "same_as": None,
    }
    assert town["default"] is None
    assert (cell["encoded_upstream"], cell["cardinality"]) == (True, 5)
    assert (age["default"], age["dim"], age["table"], age["fitted"], age["num_bytes"]) == (-1, 1, None, False, None)
    assert (both["kind"], both["output"], both["encoding"]) == ("combo", "id", "vocabulary")
    assert (both["columns"], both["fitted"]) == (["city", "cell"], False)
    examples = found["examples"]
    assert examples["city"]["before"] == {"city": ["Oslo", None, "Bern"]}
    assert examples["city"]["after"] == [[1], [2], [0]]
    assert examples["town"]["after"] == [[1], [], [0]]
    assert examples["cell"]["after"] == [[4], [0, 1], []]
    # Fitted on these rows: mean 2, deviation 1.
    assert examples["age"]["after"] == [-1.0, 1.0, -1.0]
    assert examples["both"]["before"].keys() == {"city", "cell"}
    assert examples["both"]["after"] == [[1], [], []]


def test_tables_say_the_same(clicks: list[str]) -> None:
    done = show(*clicks, "--rows", "2")
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["query", "cell", "id,", "encoded", "upstream", "cell", "cell", "5", "4", "80", "B"] in lines
    assert ["query", "age", "raw", "age", "-1", "1", "to", "be", "fitted"] in lines
    assert ["[0,", "1]", "[0,", "1]"] in lines
    assert '"Bern"' not in done.stdout
    assert "learnt from the first 3 rows" in " ".join(done.stderr.split())
    assert "[0," not in show(*clicks, "--rows", "0").stdout


def test_a_sequence_of_numbers_is_shown(tmp_path: Path) -> None:
    city, *_ = LABELLED["features"]["query"]
    ages = {"kind": "raw", "name": "ages", "pooling": "none", "fill": -1, "group": "visits"}
    target = {"kind": "sequence", "name": "cities", "table": "city", "pooling": "none", "group": "visits"}
    attention = [{"sequences": ["cities", "ages"], "targets": ["city", None]}]
    config = LABELLED | {
        "features": {"embedding_dim": 4, "query": [city, ages, target], "item": []},
        "model": {"kind": "multi_tower_din", "attention": attention},
    }
    pq.write_table(pa.table({"ages": [[1.5, None], []]}), tmp_path / "rows.parquet")
    shown = [write(tmp_path, config), "--data", str(tmp_path / "rows.parquet"), "--feature", "ages"]
    found = json.loads(show(*shown, "--json").stdout)
    (one,) = found["features"]
    assert (one["pooling"], one["dim"], one["table"], one["default"]) == ("none", 1, None, -1)
    assert found["examples"]["ages"]["after"] == [[1.5, -1.0], []]
    lines = [line.split() for line in show(*shown).stdout.splitlines()]
    assert ["query", "ages", "raw,", "sequence", "ages", "-1", "1"] in lines
    assert ["[1.5,", "null]", "[1.5,", "-1.0]"] in lines


def test_an_operation_that_is_the_same_is_named(clicks: list[str]) -> None:
    twice = '{"features.query[name=town].default": "Rome"}'
    (town,) = json.loads(show(*clicks, "--set", twice, "--feature", "town", "--json").stdout)["features"]
    # Not here: each of them has a table of its own.
    assert town["same_as"] is None
    shared = "features.query[name=town].table=city"
    (town,) = json.loads(show(*clicks, "--set", twice, "--set", shared, "--feature", "town", "--json").stdout)[
        "features"
    ]
    assert (town["same_as"], town["num_bytes"]) == ("city", None)


def test_rows_that_a_feature_refuses_make_the_exit_code(clicks: list[str]) -> None:
    done = show(*clicks, "--set", "features.query[name=cell].num_embeddings=4")
    assert done.exit_code == 1
    assert "error: row 0: feature 'cell', column 'cell': id 4 is not in 0..3" in done.stderr


def test_mistakes_are_named(clicks: list[str], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--feature ctiy: there is no feature 'ctiy' .*did you mean 'city'"):
        show(*clicks, "--feature", "ctiy")
    with pytest.raises(ValueError, match=r"none.parquet: no such"):
        show(clicks[0], "--data", str(tmp_path / "none.parquet"))
    assert show(clicks[0], "--set", "features.query[name=age].normaliser=zscore").exit_code == 2


def test_a_source_of_tables_is_looked_into(tmp_path: Path) -> None:
    for name, columns in (("users", {"segment": ["a"], "age": [7]}), ("items", {"item_id": [3]})):
        (tmp_path / "log" / name / "ds=2024-03-01").mkdir(parents=True)
        pq.write_table(pa.table(columns), tmp_path / "log" / name / "ds=2024-03-01" / "part.parquet")
    done = show(write(tmp_path, CONFIG), "--set", f"data.source={tmp_path / 'log'}", "--json")
    found = json.loads(done.stdout)["examples"]
    assert found["segment"]["after"] == [[1]]
    assert found["age"]["after"] == [7.0]
    assert found["item_id"]["after"] == [[1]]
    assert found["history"] == {"before": {}, "after": [], "missing": ["history__item_id"], "refused": None}


def test_of_rows_by_day_the_newest_day_is_looked_into(tmp_path: Path) -> None:
    for day in ("2024-03-01", "2024-03-02"):
        (tmp_path / "log" / f"ds={day}").mkdir(parents=True)
        rows = ROWS | {"city": ["Rome" if day == "2024-03-02" else "Oslo"] * 3}
        pq.write_table(pa.table(rows), tmp_path / "log" / f"ds={day}" / "rows.parquet")
    config = write(tmp_path, LABELLED | {"data": {"kind": "labelled_days", "source": str(tmp_path / "log")}})
    done = show(config, "--json", "--feature", "city")
    assert json.loads(done.stdout)["examples"]["city"]["before"] == {"city": ["Rome"] * 3}


def test_the_newest_run_lends_its_rows_and_what_it_learnt(tmp_path: Path, made_day: Any) -> None:
    path = write(tmp_path, CONFIG)
    without = show(path)
    assert "give --data PATH" in without.stderr
    assert "to be fitted" in without.stdout
    made_day(tmp_path / "runs" / "shop" / "2024-03-01" / "run-1", datetime.date(2024, 3, 1), 6)
    found = json.loads(show(path, "--json").stdout)
    segment = found["features"][0]
    assert (segment["fitted"], segment["known"]) == (True, 5)
    assert len(found["examples"]["segment"]["after"]) == 10
    assert len(found["examples"]["item_id"]["after"]) == 10
    # Another set of features than the run's.
    other = json.loads(show(path, "--json", "--set", "features.query[name=age].normalizer=log1p").stdout)
    assert (other["features"][0]["fitted"], other["examples"]) == (False, {})
