"""The daily layout: its partitions, which days can be run, and what a fingerprint covers."""

import datetime
import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys_core.datasets import daily


def day(number: int) -> datetime.date:
    return datetime.date(2024, 1, number)


def write(root: Path, table: str, number: int, rows: int = 1, name: str = "part-00000.parquet") -> Path:
    path = root / table / f"ds={day(number)}" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"user_id": range(rows)}), path)
    os.utime(path, (number, number))
    return path


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Days 1, 2, 3, 6 and 7, of which 3 has no rows, and 9 alone."""
    for number in (1, 2, 3, 6, 7, 9):
        write(tmp_path, "interactions", number, rows=0 if number == 3 else 2)
    write(tmp_path, "users", 1)
    write(tmp_path, "items", 1)
    return tmp_path


def test_partitions_are_in_order_without_temporary_files(log: Path):
    write(log, "interactions", 2, name="_tmp.parquet")
    (log / "interactions" / ".ds=2024-01-04.partial").mkdir()
    (log / "interactions" / "ds=2024-01-08").mkdir()
    found = daily.partitions(log, "interactions")
    assert list(found) == [day(number) for number in (1, 2, 3, 6, 7, 8, 9)]
    assert [len(paths) for paths in found.values()] == [1, 1, 1, 1, 1, 0, 1]


def test_a_folder_that_is_no_log_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="has no folder 'interactions'; a log holds interactions, users, items"):
        daily.partitions(tmp_path, "interactions")


@pytest.mark.parametrize("name", ["2024-01-01", "ds=20240101", "ds=2024-13-01", "old"])
def test_a_folder_that_is_no_day_is_named(log: Path, name: str):
    (log / "users" / name).mkdir()
    with pytest.raises(ValueError, match=f"users/{name}: not a day's partition; name it ds=YYYY-MM-DD"):
        daily.partitions(log, "users")


def test_the_last_day_has_a_day_after_it_with_rows(log: Path):
    assert daily.last_day(log) == day(6)
    write(log, "interactions", 8, rows=0)
    assert daily.last_day(log) == day(6)
    write(log, "interactions", 8)
    assert daily.last_day(log) == day(8)


def test_a_log_without_two_days_in_a_row_has_no_last_day(tmp_path: Path):
    write(tmp_path, "interactions", 1)
    write(tmp_path, "interactions", 3)
    with pytest.raises(ValueError, match="no two days in a row"):
        daily.last_day(tmp_path)


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (4, (r"no interactions for 2024-01-04 \(the day itself\); the log has 6 days from 2024-01-01 to 2024-01-09; "
            r"the nearest that can be run: 2024-01-02 and 2024-01-06")),
        (7, r"no interactions for 2024-01-08 \(the ground truth of 2024-01-07\)"),
        (3, r"the interactions of 2024-01-03 \(the day itself\) are empty, 1 files without a row"),
        (2, r"the interactions of 2024-01-03 \(the ground truth of 2024-01-02\) are empty"),
    ],
)  # fmt: skip
def test_a_day_that_cannot_be_run_is_refused_with_the_nearest_that_can(log: Path, number: int, message: str):
    with pytest.raises(ValueError, match=message):
        daily.require_day(log, day(number))


def test_a_day_that_can_be_run_passes(log: Path):
    daily.require_day(log, day(1))
    daily.require_day(log, day(6))


def test_an_empty_log_and_one_of_single_days_are_refused(tmp_path: Path):
    (tmp_path / "interactions").mkdir()
    with pytest.raises(ValueError, match="interactions has no partitions"):
        daily.require_day(tmp_path, day(1))
    write(tmp_path, "interactions", 1)
    with pytest.raises(ValueError, match="and no other day can be run"):
        daily.require_day(tmp_path, day(1))


def test_the_fingerprint_covers_what_a_run_reads_and_no_later_day(log: Path):
    before = daily.fingerprint(log, day(6))
    write(log, "interactions", 8)
    write(log, "users", 8)
    assert daily.fingerprint(log, day(6)) == before
    write(log, "users", 7)
    after = daily.fingerprint(log, day(6))
    assert after != before
    write(log, "interactions", 1, rows=3)
    assert daily.fingerprint(log, day(6)) != after


def test_a_file_that_is_not_parquet_is_named(log: Path):
    path = log / "interactions" / "ds=2024-01-09" / "part-00000.parquet"
    path.write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=f"{path}: cannot be read as Parquet .*write the partition again"):
        daily.num_rows([path])


def test_a_day_s_files_lie_in_subfolders_too_and_may_have_no_suffix(log: Path):
    write(log, "interactions", 2, name="hour=13/B.PARQUET")
    write(log, "interactions", 2, name="000001_0")
    names = [str(path.relative_to(log / "interactions")) for path in daily.partitions(log, "interactions")[day(2)]]
    assert names == [f"ds=2024-01-02/{name}" for name in ("000001_0", "hour=13/B.PARQUET", "part-00000.parquet")]


def test_subfolders_of_a_day_are_columns_of_text(log: Path):
    path = write(log, "users", 2, rows=2, name="country=DE/city=__HIVE_DEFAULT_PARTITION__/a.parquet")
    assert daily.schema(log, path) == pa.schema(
        [("user_id", pa.int64()), ("country", pa.string()), ("city", pa.string())]
    )
    made = daily.completed(log, path, pq.ParquetFile(path).read(), ["city", "user_id", "country"])
    assert made.to_pylist() == [{"city": None, "user_id": number, "country": "DE"} for number in range(2)]
    assert daily.folder_columns(log, write(log, "users", 1)) == {}


@pytest.mark.parametrize(
    ("stray", "message"),
    [
        ("users/part.parquet", "users/part.parquet: not a day's partition"),
        ("users/ds=2024-01-09", "users/ds=2024-01-09: not a day's partition"),
        ("users/ds=2024-1-9/a.parquet", "users/ds=2024-1-9: not a day's partition"),
        ("users/ds=2024-W01-1/a.parquet", "users/ds=2024-W01-1: not a day's partition"),
        ("users/ds=__HIVE_DEFAULT_PARTITION__/a.parquet", "DEFAULT_PARTITION__: not a day's partition"),
        ("users/country=DE/ds=2024-01-09/a.parquet", "users/country=DE: not a day's partition"),
        ("users/ds=2024-01-01/a.csv", "a.csv: a log in the daily layout is Parquet; write it as that, or import it"),
        ("users/ds=2024-01-01/notes.txt", "notes.txt: its name ends in none of"),
    ],
)
def test_what_is_no_day_or_no_rows_is_refused_by_name(log: Path, stray: str, message: str):
    (log / stray).parent.mkdir(parents=True, exist_ok=True)
    (log / stray).write_text("x")
    with pytest.raises(ValueError, match=message):
        daily.partitions(log, "users")


def test_a_link_to_a_day_that_is_gone_is_refused(log: Path):
    (log / "users" / "ds=2024-01-05").symlink_to(log / "nowhere")
    with pytest.raises(ValueError, match="users/ds=2024-01-05: not a day's partition"):
        daily.partitions(log, "users")


def test_the_first_and_last_day_that_there_are_are_days(log: Path):
    for table in ("interactions", "users", "items"):
        for sentinel in ("0001-01-01", "9999-12-31"):
            shutil.copytree(log / table / "ds=2024-01-01", log / table / f"ds={sentinel}")
    assert daily.last_day(log) == day(6)
    daily.require_day(log, day(6))
    assert daily.fingerprint(log, day(6)) == daily.fingerprint(log, day(6))
    with pytest.raises(ValueError, match=r"no interactions for 2024-01-04 .*from 0001-01-01 to 9999-12-31"):
        daily.require_day(log, day(3) + datetime.timedelta(days=1))
    for asked in (daily.require_day, daily.fingerprint):
        with pytest.raises(ValueError, match=r"day 9999-12-31: no day comes after it, .*name an earlier day"):
            asked(log, datetime.date.max)


def test_the_last_day_may_be_asked_for_up_to_another(log: Path):
    assert daily.last_day(log, day(7)) == day(6)
    assert daily.last_day(log, day(6)) == day(1)
