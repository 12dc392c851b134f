"""The writer of the daily layout: nothing lost, everything in order, little in memory."""

import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_core.datasets import base

ROWS = st.lists(
    st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(-2 * base.DAY_SECONDS, 2 * base.DAY_SECONDS)),
    min_size=1,
)


def table(rows: list[tuple[int, int, int]]) -> pa.Table:
    columns = zip(*rows, strict=True)
    return pa.table(
        {n: pa.array(c, pa.int64()) for n, c in zip(("user_id", "item_id", "timestamp"), columns, strict=True)}
    )


def read(root: Path) -> dict[str, list[tuple[int, ...]]]:
    days: dict[str, list[tuple[int, ...]]] = {}
    for path in sorted((root / "interactions").glob("*/*.parquet")):
        rows = pq.ParquetFile(path).read().to_pylist()
        days.setdefault(path.parent.name, []).extend((r["timestamp"], r["user_id"], r["item_id"]) for r in rows)
    return days


@settings(deadline=None, max_examples=60)
@given(st.lists(ROWS, min_size=1, max_size=4), st.integers(1, 5), st.sampled_from([1, 200, 1 << 20]))
def test_each_day_holds_its_rows_in_order_however_they_came(
    tmp_path_factory: pytest.TempPathFactory, additions: list, slices: int, spill_bytes: int
):
    root = tmp_path_factory.mktemp("log")
    log = base.LogWriter(root, slices)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base, "_SPILL_BYTES", spill_bytes)
        for rows in additions:
            log.add_interactions(table(rows))
        counts = log.close()
    expected: dict[str, list[tuple[int, ...]]] = {}
    for user, item, second in sorted(row for rows in additions for row in rows):
        day = datetime.date(1970, 1, 1) + datetime.timedelta(days=second // base.DAY_SECONDS)
        expected.setdefault(f"ds={day}", []).append((second, user, item))
    assert read(root) == {day: sorted(rows) for day, rows in sorted(expected.items())}
    assert counts.num_interactions == sum(map(len, additions))
    assert (counts.num_days, f"ds={counts.first_day}") == (len(expected), min(expected))
    assert not (root / ".scratch").exists()


@pytest.mark.parametrize("spill_bytes", [1, 1 << 30])
def test_of_one_second_interactions_stand_as_they_came_where_the_order_is_kept(
    spill_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(base, "_SPILL_BYTES", spill_bytes)
    log = base.LogWriter(tmp_path, slices_per_day=2, keeps_order=True)
    for rows in ([(2, 9, 5), (1, 3, 5), (2, 8, 4)], [(2, 7, 5), (1, 9, 4)], [(1, 1, 5)]):
        log.add_interactions(table(rows))
    log.close()
    assert read(tmp_path)["ds=1970-01-01"] == [
        (4, 2, 8), (4, 1, 9), (5, 2, 9), (5, 1, 3), (5, 2, 7), (5, 1, 1),
    ]  # fmt: skip


def test_a_day_that_is_closed_leaves_the_memory(tmp_path: Path):
    log = base.LogWriter(tmp_path)
    log.add_interactions(table([(1, 1, 5), (1, 2, base.DAY_SECONDS)]))
    log.close_day(datetime.date(1970, 1, 1))
    assert list(log._buffers) == [1]
    assert list(read(tmp_path)) == ["ds=1970-01-01"]


def test_a_log_without_interactions_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="holds no interactions"):
        base.LogWriter(tmp_path).close()


def test_small_tables_become_even_row_groups(tmp_path: Path):
    path = tmp_path / "a" / "x.parquet"
    rows = base.write_parquet(
        path, (pa.table({"x": range(start, start + 30_000)}) for start in range(0, 180_000, 30_000))
    )
    file = pq.ParquetFile(path)
    sizes = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
    assert (rows, sizes) == (180_000, [65_536, 65_536, 48_928])
    assert file.read()["x"].to_pylist() == list(range(180_000))
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"


def test_no_rows_make_no_file(tmp_path: Path):
    assert base.write_parquet(tmp_path / "x.parquet", [pa.table({"x": pa.array([], pa.int64())})]) == 0
    assert list(tmp_path.iterdir()) == []


@given(st.lists(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 50))), max_size=5), st.integers(1, 30))
def test_first_days_are_those_of_a_dictionary(additions: list, compact_rows: int):
    first = base.FirstDays()
    first._COMPACT_ROWS = compact_rows
    oracle: dict[int, int] = {}
    for rows in additions:
        ids, days = [row[0] for row in rows], [row[1] for row in rows]
        first.add(pa.chunked_array([pa.array(ids, pa.int64())]), pa.array(days, pa.int32()))
        for key, day in rows:
            oracle[key] = min(day, oracle.get(key, day))
    found = first.table().to_pydict()
    assert dict(zip(found["id"], found["day_min"], strict=True)) == oracle


def test_who_never_acts_is_known_from_the_start(tmp_path: Path):
    first = base.FirstDays()
    first.add(pa.chunked_array([[7, 8]]), pa.array([3, 5], pa.int32()))
    log = base.LogWriter(tmp_path)
    base.write_known(log, "users", pa.table({"user_id": [6, 7, 8], "likes": [["a"], None, []]}), first)
    days = {path.parent.name: pq.ParquetFile(path).read().to_pylist() for path in tmp_path.glob("users/*/*.parquet")}
    assert days == {
        "ds=1970-01-04": [{"user_id": 6, "likes": ["a"]}, {"user_id": 7, "likes": None}],
        "ds=1970-01-06": [{"user_id": 8, "likes": []}],
    }


def test_days_end_where_the_calendar_does():
    assert base.day_after(datetime.date(2024, 2, 28)) == datetime.date(2024, 2, 29)
    with pytest.raises(ValueError, match="day 9999-12-31: no day comes after it"):
        base.day_after(datetime.date.max)
    assert base.days_before(datetime.date(2024, 3, 1), 1) == datetime.date(2024, 2, 29)
    assert base.days_before(datetime.date(2024, 3, 1), 10**9) == datetime.date(1, 1, 1)


def test_a_writer_notes_what_it_wrote_by_table_and_day(tmp_path: Path):
    log = base.LogWriter(tmp_path / "log", slices_per_day=2)
    log.add_interactions(pa.table({"user_id": [1, 1, 2], "item_id": [7, 8, 7], "timestamp": [0, 86_399, 86_400]}))
    log.write_rows("users", datetime.date(1970, 1, 1), [pa.table({"user_id": [1, 2]})])
    log.write_rows("items", datetime.date(1970, 1, 1), [pa.table({"item_id": pa.array([], pa.int64())})])
    assert log.close().num_interactions == 3
    written = base.written_rows(tmp_path / "log")
    assert written == {"interactions": {"1970-01-01": 2, "1970-01-02": 1}, "users": {"1970-01-01": 2}, "items": {}}
    assert base.written_rows(tmp_path) == {}
