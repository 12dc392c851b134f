import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys_core import ingest
from recsys_core.datasets import tables
from recsys_core.progress import silent

NOON = 1_704_110_400  # 2024-01-01 12:00 UTC


def _write(folder: Path, rows: dict[str, Any]) -> str:
    folder.mkdir(parents=True)
    pq.write_table(pa.table(rows), folder / "a.parquet")
    return str(folder.parent)


@pytest.fixture
def config(tmp_path: Path) -> tables.Config:
    """Three local tables: two days of interactions, users in days without dashes, items in one file."""
    for day in range(2):
        rows = {"uid": [1, 2], "item_id": [7, 8], "timestamp": [NOON + day * 86_400 + 5, NOON + day * 86_400]}
        interactions = _write(tmp_path / "interactions" / f"ds=2024-01-0{day + 1}", rows)
    users = _write(tmp_path / "users" / "ds=20240101", {"user_id": [1, 2], "age": [30, None]})
    items = tmp_path / "items.parquet"
    pq.write_table(pa.table({"item_id": [7, 8], "ds": ["2024-01-01", "2024-01-02"]}), items)
    source = {"interactions": interactions, "users": users, "items": str(items)}
    return tables.Config.model_validate({"source": source, "columns": {"uid": "user_id"}})


def test_days_become_partitions_of_the_daily_layout(config: tables.Config, tmp_path: Path, read_log: Any) -> None:
    counts = ingest.import_log(config, tmp_path / "log", silent)
    assert (counts.num_days, counts.num_interactions, counts.num_users, counts.num_items) == (2, 4, 2, 2)
    interactions = read_log(tmp_path / "log", "interactions")
    assert interactions["2024-01-02"][0] == {"user_id": 2, "item_id": 8, "timestamp": NOON + 86_400}
    assert read_log(tmp_path / "log", "users") == {
        "2024-01-01": [{"user_id": 1, "age": 30}, {"user_id": 2, "age": None}]
    }
    assert read_log(tmp_path / "log", "items") == {"2024-01-01": [{"item_id": 7}], "2024-01-02": [{"item_id": 8}]}


def test_an_unchanged_source_is_imported_once(config: tables.Config, tmp_path: Path) -> None:
    before = ingest.prepare(config, tmp_path / "imports", silent)
    assert ingest.prepare(config, tmp_path / "imports", silent) == before
    _write(Path(config.source["users"]) / "ds=20240102", {"user_id": [3], "age": [1]})
    after = ingest.prepare(config, tmp_path / "imports", silent)
    assert after != before
    assert (after / "users" / "ds=2024-01-02").is_dir()
    assert ingest.fingerprint(config, datetime.date(2024, 1, 1)) in after.name


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"columns": {}}, "no column 'user_id' for interactions; it has uid"),
        ({"day_column": "day"}, "no column 'day' for interactions"),
    ],
)
def test_columns_that_are_missing_are_named(config: tables.Config, changes: dict, said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said):
        ingest.import_log(config.model_copy(update=changes), tmp_path / "log", silent)


@pytest.mark.parametrize(
    ("day", "timestamp", "said"),
    [("2024-01-03", NOON, "stands in the rows of 2024-01-03"), ("yesterday", NOON, "ds is 'yesterday' in some row")],
)
def test_rows_of_other_days_are_refused(
    config: tables.Config, day: str, timestamp: int, said: str, tmp_path: Path
) -> None:
    rows = {"uid": [1], "item_id": [7], "timestamp": [timestamp]}
    _write(Path(config.source["interactions"]) / f"ds={day}", rows)
    with pytest.raises(ValueError, match=said):
        ingest.import_log(config, tmp_path / "log", silent)
    assert not (tmp_path / "log").exists()


def test_a_source_names_all_three() -> None:
    with pytest.raises(ValueError, match="names users; name interactions, users, items"):
        tables.Config.model_validate({"source": {"users": "u"}})
