import datetime
import shutil
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


def test_of_one_second_interactions_stand_as_in_the_table(config: tables.Config, tmp_path: Path, read_log: Any) -> None:
    rows = {"uid": [2, 1, 1], "item_id": [7, 8, 7], "timestamp": [NOON] * 3}
    pq.write_table(pa.table(rows), Path(config.source["interactions"]) / "ds=2024-01-01" / "a.parquet")
    ingest.import_log(config, tmp_path / "log", silent)
    found = read_log(tmp_path / "log", "interactions")["2024-01-01"]
    assert [(row["user_id"], row["item_id"]) for row in found] == [(2, 7), (1, 8), (1, 7)]


def test_an_unchanged_source_is_imported_once(config: tables.Config, tmp_path: Path) -> None:
    before = ingest.prepare(config, tmp_path / "imports", silent)
    assert ingest.prepare(config, tmp_path / "imports", silent) == before
    _write(Path(config.source["users"]) / "ds=20240102", {"user_id": [3], "age": [1]})
    after = ingest.prepare(config, tmp_path / "imports", silent)
    assert after != before
    assert (after / "users" / "ds=2024-01-02").is_dir()
    assert ingest.fingerprint(config, datetime.date(2024, 1, 1)) in after.name


@pytest.fixture
def by_day(config: tables.Config, tmp_path: Path) -> tables.Config:
    """The same, and each table in partitions: three days of interactions, two of items."""
    rows = {"uid": [1], "item_id": [8], "timestamp": [NOON + 2 * 86_400]}
    _write(Path(config.source["interactions"]) / "ds=2024-01-03", rows)
    _write(Path(config.source["users"]) / "ds=20240103", {"user_id": [2], "age": [31]})
    for day, item in ((1, 7), (2, 8)):
        items = _write(tmp_path / "items" / f"ds=2024-01-0{day}", {"item_id": [item]})
    return config.model_copy(update={"source": config.source | {"items": items}})


def _read_days(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note which files are opened from here on."""
    opened: list[str] = []
    build = tables.readers.build

    def noted(config: Any, state: Any = None) -> Any:
        opened.extend(config.path)
        return build(config, state)

    monkeypatch.setattr(tables.readers, "build", noted)
    return opened


def test_a_run_reads_only_days_that_it_has_not_read_yet(
    by_day: tables.Config, tmp_path: Path, read_log: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    imports, first, second = tmp_path / "imports", datetime.date(2024, 1, 1), datetime.date(2024, 1, 2)
    opened = _read_days(monkeypatch)
    root = ingest.prepare(by_day, imports, silent, day=first)
    # The day itself and the one after it, which is its ground truth.
    assert sorted(read_log(root, "interactions")) == ["2024-01-01", "2024-01-02"]
    assert len(opened) == 5
    opened.clear()
    assert ingest.prepare(by_day, imports, silent, day=first) == root
    assert not opened
    before = ingest.fingerprint(by_day, first)
    assert ingest.prepare(by_day, imports, silent, day=second) == root
    assert sorted(Path(path).parent.name for path in opened) == ["ds=2024-01-03", "ds=20240103"]
    assert not ingest.last_day(by_day, imports, silent) < second
    assert ingest.fingerprint(by_day, first) == before != ingest.fingerprint(by_day, second)
    # A day that was written again is read again, and one that is gone is gone.
    opened.clear()
    pq.write_table(pa.table({"item_id": [9, 10]}), Path(by_day.source["items"]) / "ds=2024-01-02" / "a.parquet")
    (Path(by_day.source["users"]) / "ds=20240101" / "a.parquet").unlink()
    ingest.prepare(by_day, imports, silent)
    assert sorted(Path(path).parent.name for path in opened) == ["ds=2024-01-01"] * 2 + ["ds=2024-01-02"] * 2
    assert read_log(root, "items") == {"2024-01-01": [{"item_id": 7}], "2024-01-02": [{"item_id": 9}, {"item_id": 10}]}
    assert read_log(root, "users") == {"2024-01-03": [{"user_id": 2, "age": 31}]}
    assert ingest.fingerprint(by_day, first) != before


def test_a_day_that_cannot_be_imported_leaves_the_others_as_they_were(
    by_day: tables.Config, tmp_path: Path, read_log: Any
) -> None:
    root = ingest.prepare(by_day, tmp_path / "imports", silent, day=datetime.date(2024, 1, 1))
    before = read_log(root, "interactions")
    bad = Path(by_day.source["interactions"]) / "ds=2024-01-03" / "a.parquet"
    pq.write_table(pa.table({"uid": [1], "item_id": [8], "timestamp": [NOON]}), bad)
    with pytest.raises(ValueError, match="stands in the rows of 2024-01-03"):
        ingest.prepare(by_day, tmp_path / "imports", silent)
    assert read_log(root, "interactions") == before
    assert not [path for path in root.iterdir() if path.name.endswith(".partial")]


def test_one_day_replaces_itself_in_a_log(by_day: tables.Config, tmp_path: Path, read_log: Any) -> None:
    log, day = tmp_path / "log", datetime.date(2024, 1, 2)
    ingest.import_log(by_day, log, silent)
    before = read_log(log, "interactions")
    pq.write_table(
        pa.table({"uid": [2], "item_id": [7], "timestamp": [NOON + 86_400]}),
        Path(by_day.source["interactions"]) / "ds=2024-01-02" / "a.parquet",
    )
    assert ingest.import_day(by_day, log, silent, day).num_interactions == 1
    after = read_log(log, "interactions")
    assert after.pop("2024-01-02") == [{"user_id": 2, "item_id": 7, "timestamp": NOON + 86_400}]
    assert after.items() <= before.items()
    with pytest.raises(ValueError, match="interactions: no interactions of 2024-02-01; name another day"):
        ingest.import_day(by_day, log, silent, datetime.date(2024, 2, 1))


def test_days_before_the_first_are_left_out(by_day: tables.Config, config: tables.Config, tmp_path: Path) -> None:
    for number, one in enumerate((by_day, config)):
        later = one.model_copy(update={"first_day": datetime.date(2024, 1, 2)})
        root = ingest.prepare(later, tmp_path / str(number), silent)
        assert sorted(path.name for path in (root / "interactions").iterdir()) == ["ds=2024-01-02", "ds=2024-01-03"]
    with pytest.raises(ValueError, match="the source is not parted by day"):
        ingest.import_day(config, tmp_path / "log", silent, datetime.date(2024, 1, 2))


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
    [
        ("2024-01-03", NOON, "stands in the rows of 2024-01-03"),
        ("yesterday", NOON, "a.parquet: column 'ds', row 0: 'yesterday' is no day"),
    ],
)
def test_rows_of_other_days_are_refused(
    config: tables.Config, day: str, timestamp: int, said: str, tmp_path: Path
) -> None:
    rows = {"uid": [1], "item_id": [7], "timestamp": [timestamp]}
    _write(Path(config.source["interactions"]) / f"ds={day}", rows)
    with pytest.raises(ValueError, match=said):
        ingest.import_log(config, tmp_path / "log", silent)
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize(
    "days",
    [pa.array([20240102.0]), pa.array([20240102], pa.decimal128(10, 0)), pa.array([b"2024-01-02"])],
    ids=lambda days: str(days.type),
)
def test_days_are_days_in_whatever_type_they_are(days: pa.Array) -> None:
    found, is_day = tables._days_of(pa.chunked_array([days]), "ds", "a.parquet", 0)
    assert (found.tolist(), is_day) == ([19_724], True)


def test_what_the_tables_lack_is_reported_of_them_and_not_of_the_copy(tmp_path: Path) -> None:
    for name in ("interactions", "users", "items"):
        rows = {"ds": ["2024-01-02"], "user_id": [1], "item_id": [7], "timestamp": [NOON + 86_400]}
        _write(tmp_path / name, rows)
    there = {name: str(tmp_path / name) for name in ("interactions", "users", "items")}
    config = tables.Config.model_validate({"source": there})
    with pytest.raises(ValueError, match=rf"^{tmp_path}/interactions: interactions has no two days in a row"):
        ingest.last_day(config, tmp_path / "imports", silent)
    request = ingest.Request(
        output=tmp_path / "out",
        config_hash="c",
        code_version="v",
        config=config,
        day=datetime.date(2024, 1, 2),
        import_root=tmp_path / "imports",
        fingerprint="f",
    )
    with pytest.raises(ValueError, match=rf"^{tmp_path}/interactions: no interactions for 2024-01-03"):
        ingest.run(request, silent)
    shutil.rmtree(tmp_path / "interactions")
    empty = pa.table({"ds": pa.array([], pa.string())} | {k: pa.array([], pa.int64()) for k in rows if k != "ds"})
    _write(tmp_path / "interactions", empty)
    with pytest.raises(ValueError, match=rf"^{tmp_path}/interactions: holds no interactions"):
        ingest.prepare(config, tmp_path / "imports", silent)


def test_a_source_names_all_three() -> None:
    with pytest.raises(ValueError, match="names users; name interactions, users, items"):
        tables.Config.model_validate({"source": {"users": "u"}})


def test_no_day_after_the_ground_truth_is_imported_to_find_the_last_one(
    by_day: tables.Config, tmp_path: Path, read_log: Any
) -> None:
    rows = {"uid": [1], "item_id": [7], "timestamp": [253402214400]}
    _write(Path(by_day.source["interactions"]) / "ds=9999-12-31", rows)
    assert ingest.last_day(by_day, tmp_path / "imports", silent) == datetime.date(2024, 1, 2)
    (root,) = (tmp_path / "imports").iterdir()
    assert sorted(read_log(root, "interactions")) == ["2024-01-01", "2024-01-02", "2024-01-03"]
    with pytest.raises(ValueError, match="day 9999-12-31: no day comes after it"):
        ingest.prepare(by_day, tmp_path / "imports", silent, day=datetime.date.max)


def test_tables_without_two_days_in_a_row_have_no_last_day(by_day: tables.Config, tmp_path: Path) -> None:
    shutil.rmtree(Path(by_day.source["interactions"]) / "ds=2024-01-02")
    with pytest.raises(ValueError, match="interactions: no two days of interactions in a row"):
        ingest.last_day(by_day, tmp_path / "imports", silent)


def test_a_partition_of_no_day_is_refused_by_name(by_day: tables.Config, tmp_path: Path) -> None:
    odd = Path(by_day.source["users"]) / "ds=__HIVE_DEFAULT_PARTITION__"
    _write(odd, {"user_id": [9], "age": [31]})
    with pytest.raises(ValueError, match="ds=__HIVE_DEFAULT_PARTITION__/a.parquet: its folder says that ds is null"):
        ingest.prepare(by_day, tmp_path / "imports", silent)
    odd.rename(odd.with_name("ds=2024-1-2"))
    with pytest.raises(ValueError, match="users: ds is '2024-1-2' in some row; days are YYYY-MM-DD or YYYYMMDD"):
        ingest.prepare(by_day, tmp_path / "imports", silent)


def test_tables_in_odd_folders_are_taken_as_they_are(by_day: tables.Config, tmp_path: Path, read_log: Any) -> None:
    moved = tmp_path / "a,b #%20[x]*é"
    shutil.copytree(tmp_path, moved, ignore=lambda folder, names: [name for name in names if name == moved.name])
    source = {name: str(moved / Path(path).relative_to(tmp_path)) for name, path in by_day.source.items()}
    odd = by_day.model_copy(update={"source": source})
    roots = [ingest.prepare(config, moved / "im,ports", silent) for config in (by_day, odd)]
    assert read_log(roots[0], "interactions") == read_log(roots[1], "interactions") != {}


def _csv(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def test_one_column_is_the_time_and_the_day(tmp_path: Path, read_log: Any) -> None:
    source = {
        "interactions": _csv(
            tmp_path, "i.csv", "uid;item_id;at\n007;8;2024-01-01T23:59:59Z\n7;8;2024-01-02 08:00:00+09:00\n"
        ),
        "users": _csv(tmp_path, "u.csv", "uid;since\n007;2023-12-31\n7;2024-01-01\n"),
        "items": _csv(tmp_path, "t.csv", "item_id;added\n8;1704067200\n"),
    }
    given = {
        "source": source,
        "columns": {"uid": "user_id", "at": "timestamp"},
        "day_column": {"interactions": "at", "users": "since", "items": "added"},
        "csv": {"delimiter": ";"},
    }
    ingest.import_log(tables.Config.model_validate(given), tmp_path / "log", silent)
    assert read_log(tmp_path / "log", "interactions") == {
        "2024-01-01": [
            {"user_id": "7", "item_id": 8, "timestamp": 1_704_150_000},
            {"user_id": "007", "item_id": 8, "timestamp": 1_704_153_599},
        ]
    }
    assert read_log(tmp_path / "log", "users") == {"2023-12-31": [{"user_id": "007"}], "2024-01-01": [{"user_id": "7"}]}
    # A time that is no day's name stays a field.
    assert read_log(tmp_path / "log", "items") == {"2024-01-01": [{"item_id": 8, "added": 1_704_067_200}]}
    with pytest.raises(ValueError, match="names users; name a column for interactions, users, items"):
        tables.Config.model_validate(given | {"day_column": {"users": "ds"}})


def test_an_id_that_is_text_in_one_table_is_text_in_all(tmp_path: Path, read_log: Any) -> None:
    source = {
        "interactions": _csv(tmp_path, "i.csv", "user_id,item_id,timestamp,ds\n7,8,1704067200,20240101\n"),
        "users": _csv(tmp_path, "u.csv", "user_id,ds\n007,20240101\n7,20240101\n"),
        "items": _csv(tmp_path, "t.csv", "item_id,ds\n8,2024-01-01\n"),
    }
    ingest.import_log(tables.Config(source=source), tmp_path / "log", silent)
    (row,) = read_log(tmp_path / "log", "interactions")["2024-01-01"]
    assert row == {"user_id": "7", "item_id": 8, "timestamp": 1_704_067_200}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"csv": {"types": {"usr_id": "string"}}},
            r"data\.csv\.types: there is no column 'usr_id'; did you mean 'user_id'",
        ),
        ({"csv": {"types": {"user_id": "date32"}}}, r"u\.csv: line 2: conversion error to date32"),
        (
            {"columns": {"age": "user_id"}},
            r"u\.csv, renamed by data\.columns: the column 'user_id' is there more than once",
        ),
    ],
)
def test_keys_that_do_not_fit_the_tables_are_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    source = {
        "interactions": _csv(tmp_path, "i.csv", "user_id,item_id,timestamp,ds\n7,8,1704067200,20240101\n"),
        "users": _csv(tmp_path, "u.csv", "user_id,age,ds\n7,30,20240101\n"),
        "items": _csv(tmp_path, "t.csv", "item_id,ds\n8,2024-01-01\n"),
    }
    with pytest.raises(ValueError, match=said):
        ingest.import_log(tables.Config.model_validate({"source": source} | change), tmp_path / "log", silent)


def test_csv_keys_without_csv_are_refused(config: tables.Config, tmp_path: Path) -> None:
    given = config.model_copy(update={"csv": config.csv.model_copy(update={"delimiter": ";"})})
    with pytest.raises(ValueError, match=r"data\.csv: none of .*items\.parquet is CSV, so nothing reads this"):
        ingest.import_log(given, tmp_path / "log", silent)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("7,8,soon,20240101", r"i\.csv: column 'timestamp', row 1: 'soon' is of another form than"),
        ("7,8,1e15,20240101", r"i\.csv: column 'timestamp', row 1: 1000000000000000\.0 counts microseconds, and rows"),
        ("7,8,-1000000000000,20240101", r"i\.csv: column 'timestamp', row 1: -1000000000000 is no time"),
        ("7,8,,20240101", r"i\.csv: column 'timestamp', row 1: there is no time"),
        ("7,8,1704067200,", r"i\.csv: column 'ds', row 1: there is no day"),
        ("7,8,1704067200,20240230", r"i\.csv: column 'ds', row 1: '20240230' is no day; write days as YYYY-MM-DD"),
        (
            "7,8,1704067200,20240102",
            r"i\.csv: timestamp 1704067200 stands in the rows of 2024-01-02, of which it is not",
        ),
        ("7.5,8,1704067200,20240101", r"i\.csv: column 'user_id', row 1: id 7\.5 is no whole number"),
    ],
)
def test_a_bad_row_is_named_with_the_file_of_the_source(tmp_path: Path, rows: str, said: str) -> None:
    good = "user_id,item_id,timestamp,ds\n7,8,1704067200,20240101\n"
    source = {
        "interactions": _csv(tmp_path, "i.csv", f"{good}{rows}\n"),
        "users": _csv(tmp_path, "u.csv", "user_id,ds\n7,20240101\n"),
        "items": _csv(tmp_path, "t.csv", "item_id,ds\n8,20240101\n"),
    }
    with pytest.raises(ValueError, match=said):
        ingest.import_log(tables.Config(source=source), tmp_path / "log", silent)
    assert not (tmp_path / "log").exists()
