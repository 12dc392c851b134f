"""Each way in which a log can be wrong is refused, and the refusal names where."""

import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys_core.artifacts import DayCount
from recsys_core.datasets import _checks
from recsys_core.progress import Event, silent

MIDNIGHT = 1_704_067_200  # 2024-01-01T00:00:00Z
DAY = 86_400
LAST = datetime.date(2024, 1, 2)
GOOD: dict[tuple[str, int], dict[str, Any]] = {
    ("interactions", 1): {
        "user_id": [1, 2, 1],
        "item_id": [7, 7, 8],
        "timestamp": [MIDNIGHT, MIDNIGHT + 5, MIDNIGHT + 9],
    },
    ("interactions", 2): {"user_id": [3], "item_id": [8], "timestamp": [MIDNIGHT + DAY + 1]},
    ("users", 1): {"user_id": [1, 2], "age": [20, None]},
    ("users", 2): {"user_id": [3, 1], "age": [30, 21]},
    ("items", 1): {"item_id": [7, 8], "tags": [["a"], None]},
}


def write(root: Path, partitions: dict[tuple[str, int], Any]) -> Path:
    for (name, number), columns in partitions.items():
        path = root / name / f"ds=2024-01-{number:02d}" / "part-00000.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), path)
    return root


def test_a_good_log_is_counted_and_every_file_has_a_digest(tmp_path: Path):
    events: list[Event] = []
    later = {("users", 3): {"wrong": [1]}, ("interactions", 3): {"wrong": [1]}}
    checked = _checks.check(write(tmp_path, GOOD | later), LAST, events.append)
    assert checked.days == (
        DayCount(day=datetime.date(2024, 1, 1), num_interactions=3, num_users=2, num_items=2),
        DayCount(day=LAST, num_interactions=1, num_users=2, num_items=0),
    )
    assert checked.columns["users"] == {"user_id": "int64", "age": "int64"}
    assert [file.path for file in checked.files][:2] == [
        "interactions/ds=2024-01-01/part-00000.parquet",
        "interactions/ds=2024-01-02/part-00000.parquet",
    ]
    assert len({file.digest for file in checked.files}) == len(checked.files) == 5
    assert (events[-1].done, events[-1].total) == (10, 10)


def test_the_digests_follow_the_content_and_not_the_place(tmp_path: Path):
    one = _checks.check(write(tmp_path / "one", GOOD), LAST, silent)
    two = _checks.check(write(tmp_path / "two", GOOD), LAST, silent)
    other = write(tmp_path / "other", GOOD | {("items", 1): {"item_id": [7, 8], "tags": [["b"], None]}})
    assert one == two
    assert _checks.check(other, LAST, silent).files != one.files


def test_ids_may_be_text(tmp_path: Path):
    text = {
        key: {
            name: [str(value) for value in values] if name.endswith("_id") else values
            for name, values in columns.items()
        }
        for key, columns in GOOD.items()
    }
    assert _checks.check(write(tmp_path, text), LAST, silent).columns["interactions"]["user_id"] == "string"


def test_times_that_say_their_unit_stand_beside_others_and_a_file_without_rows_has_none(tmp_path: Path):
    events: list[Event] = []
    zoned = pa.array([MIDNIGHT * 10**6] * 3, pa.timestamp("us", "Asia/Shanghai"))
    write(tmp_path, GOOD | interactions(timestamp=zoned))
    assert _checks.check(tmp_path, LAST, events.append).days[0].num_interactions == 3
    assert events[-1].message == (
        "warning: interactions: timestamp is timestamp[us, tz=Asia/Shanghai] and seconds, read as Unix seconds in UTC"
    )
    milliseconds = {"user_id": [3], "item_id": [8], "timestamp": [(MIDNIGHT + DAY) * 1000]}
    empty = pa.table({name: pa.array([], pa.int64()) for name in milliseconds})
    write(tmp_path, {("interactions", 1): empty, ("interactions", 2): milliseconds})
    assert _checks.check(tmp_path, LAST, silent).days[0].num_interactions == 0


def test_bytes_that_are_no_text_and_ids_of_odd_signs_are_shown_on_one_line(tmp_path: Path):
    latin = pa.array([b"a", b"Troms\xf8"], pa.binary()).view(pa.string())
    write(tmp_path, GOOD | {("users", 1): {"user_id": [1, 2], "age": [20, 21], "city": latin}})
    write(tmp_path, {("users", 2): {"user_id": [3, 1], "age": [30, 21], "city": ["b", "c"]}})
    with pytest.raises(ValueError, match=r"2024-01-01/part-00000.parquet: column 'city', row 1: b'Troms\\xf8' is no t"):
        _checks.check(tmp_path, LAST, silent)
    texts = {
        key: {name: [f"\n{v}" for v in values] if name.endswith("_id") else values for name, values in columns.items()}
        for key, columns in GOOD.items()
    }
    write(tmp_path, texts | {("users", 1): {"user_id": ["\n1"], "age": [20]}})
    with pytest.raises(ValueError, match=r"'\\n2' acts on 2024-01-01 but is in no partition") as refused:
        _checks.check(tmp_path, LAST, silent)
    assert str(refused.value).isprintable()


def interactions(**change: Any) -> dict[tuple[str, int], Any]:
    return {("interactions", 1): GOOD["interactions", 1] | change}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {("interactions", 1): {"user_id": [1], "item_id": [7], "timestmp": [MIDNIGHT]}},
            (
                r"interactions/ds=2024-01-01/part-00000.parquet: interactions has no column 'timestamp', only user_id, "
                r"item_id, timestmp; did you mean 'timestmp'\?"
            ),
        ),
        ({("items", 1): {"id": [1]}}, "items has no column 'item_id', only id"),
        (
            interactions(timestamp=[True, True, True]),
            "ds=2024-01-01/part-00000.parquet: column 'timestamp' is bool, which holds no times; write Unix seconds",
        ),
        (
            interactions(timestamp=["2024-01-01T00:00:00", None, "soon"]),
            "ds=2024-01-01/part-00000.parquet: column 'timestamp', row 2: 'soon' is no time; write ISO 8601",
        ),
        (
            interactions(timestamp=[-(10**12), MIDNIGHT, MIDNIGHT]),
            "ds=2024-01-01/part-00000.parquet: column 'timestamp', row 0: -1000000000000 is no time",
        ),
        (
            interactions(timestamp=[253_402_300_799, MIDNIGHT, MIDNIGHT]),
            r"1 timestamps of rows 0 to 3 are not on 2024-01-01 in UTC, such as 253402300799 \(9999-12-31 23:59:59\)",
        ),
        (interactions(user_id=[1.0, 2.0, 2.5]), "column 'user_id', row 2: id 2.5 is no whole number; write ids as"),
        (
            {("users", 1): {"user_id": pa.array([1, 2**63], pa.uint64()), "age": [1, 2]}},
            "users/ds=2024-01-01/part-00000.parquet: column 'user_id', row 1: id 9223372036854775808 is beyond int64",
        ),
        (
            {("items", 1): {"item_id": pa.array([1, 2], pa.date32()), "tags": [["a"], None]}},
            r"items/ds=2024-01-01/part-00000.parquet: column 'item_id' is date32\[day\], which holds no ids; write",
        ),
        (
            {("items", 1): pa.table([[7, 8], [["a"], None], [["a"], None]], names=["item_id", "tags", "tags"])},
            r"items/ds=2024-01-01/part-00000.parquet: the column 'tags' is there more than once",
        ),
        (
            {("items", 1): {"item_id": ["7", "8"]}},
            r"item_id is int64 in interactions and string in items \(.*\); write both alike",
        ),
        (
            {("interactions", 2): {"user_id": [3], "item_id": ["8"], "timestamp": [MIDNIGHT + DAY]}},
            r"ds=2024-01-02/part-00000.parquet: column 'item_id' is string here and int64 in .*ds=2024-01-01",
        ),
        ({("users", 2): {"user_id": [3]}}, "column 'age' is absent here and int64 in"),
        ({("users", 2): {"user_id": [3], "age": [1], "city": [2]}}, "column 'city' is int64 here and absent in"),
        (interactions(item_id=[7, None, None]), "column 'item_id' is null in 2 rows of 0 to 3; leave those rows out"),
        (interactions(timestamp=[MIDNIGHT, None, MIDNIGHT]), "column 'timestamp' is null in 1 rows"),
        ({("users", 2): {"user_id": [3, None], "age": [1, 1]}}, "column 'user_id' is null in 1 rows"),
        (
            interactions(timestamp=[MIDNIGHT - 1, MIDNIGHT, MIDNIGHT + DAY]),
            rf"2 timestamps of rows 0 to 3 are not on 2024-01-01 in UTC, such as {MIDNIGHT - 1} \(2023-12-31 23:59",
        ),
        (
            interactions(timestamp=[MIDNIGHT * 1000] * 3),
            "column 'timestamp': is in seconds, and in .*ds=2024-01-01/.* in milliseconds; write all files alike",
        ),
        (
            {("items", 1): {"item_id": [7, 8, 8, 7], "tags": [["a"]] * 4}},
            r"items/ds=2024-01-01: 2 ids stand more than once in items, such as 7, 8; keep one row per item_id and day",
        ),
        (
            interactions(user_id=[1, 9, 4]) | {("users", 2): {"user_id": [3, 4], "age": [1, 1]}},
            (
                "interactions name 2 ids that users does not know by then "
                r"\(user_id 4 acts on 2024-01-01 but is first known on 2024-01-02; 9 acts on 2024-01-01 but is in no "
                "partition"
            ),
        ),
        (interactions(item_id=[7, 8, 9]), "interactions name 1 ids that items does not know by then"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, change: dict[tuple[str, int], Any], message: str):
    with pytest.raises(ValueError, match=message):
        _checks.check(write(tmp_path, GOOD | change), LAST, silent)


def test_a_table_without_files_is_refused(tmp_path: Path):
    write(tmp_path, {key: columns for key, columns in GOOD.items() if key[0] != "users"})
    (tmp_path / "users").mkdir()
    with pytest.raises(ValueError, match="users has no file in any partition up to that day"):
        _checks.check(tmp_path, LAST, silent)


def test_a_file_whose_pages_are_damaged_is_named(tmp_path: Path):
    noise = pa.table({"user_id": range(5_000), "age": [value * 7_919 % 5_003 for value in range(5_000)]})
    path = write(tmp_path, GOOD | {("users", 1): noise}) / "users" / "ds=2024-01-01" / "part-00000.parquet"
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle - 2_000 : middle + 2_000] = bytes(4_000)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{path}: damaged"):
        _checks.check(tmp_path, LAST, silent)


def test_messages_about_an_imported_log_name_its_source(tmp_path: Path):
    write(tmp_path, GOOD | interactions(user_id=[1, 9, 2]))

    def name(table: str, path: Path | None) -> str:
        return f"{table}.csv" if path is None else f"{table}.csv, {path.parent.name}"

    with pytest.raises(ValueError, match=r"^interactions\.csv: interactions name 1 ids that users does not know"):
        _checks.check(tmp_path, LAST, silent, name)
    for change, said in (
        ({("users", 1): {"user_id": [1, 1], "age": [1, 1]}}, r"^users\.csv, ds=2024-01-01: 1 ids stand more than once"),
        (
            {("items", 1): {"item_id": [None, 1], "tags": [["a"]] * 2}},
            r"^items\.csv, ds=2024-01-01: column 'item_id' is n",
        ),
        (interactions(timestamp=[MIDNIGHT - 1] * 3), r"^interactions\.csv, ds=2024-01-01: 3 timestamps of rows 0 to 3"),
        (
            {("users", 2): {"user_id": [3], "age": ["1"]}},
            r"^users\.csv, ds=2024-01-02: column 'age' .* in users\.csv, ds=",
        ),
        ({("items", 1): {"item_id": ["7"]}}, r"^interactions\.csv: item_id is int64 .* string in items \(items\.csv\)"),
    ):
        with pytest.raises(ValueError, match=said):
            _checks.check(write(tmp_path, GOOD | change), LAST, silent, name)


def test_days_without_rows_or_without_files_are_fine(tmp_path: Path):
    write(tmp_path, GOOD)
    (tmp_path / "users" / "ds=2023-12-31").mkdir()
    (tmp_path / "items" / "ds=2024-01-02").mkdir()
    (tmp_path / "items" / "ds=2024-01-02" / "_SUCCESS").touch()
    for table, number in (("interactions", 2), ("users", 1)):
        (written,) = (tmp_path / table / f"ds=2024-01-{number:02d}").glob("*.parquet")
        pq.write_table(pq.read_table(written).slice(0, 0), written.with_name("000001_0"))
    days = {day.day: day for day in _checks.check(tmp_path, LAST, silent).days}
    assert days[datetime.date(2023, 12, 31)].num_users == 0
    assert days[LAST] == DayCount(day=LAST, num_interactions=1, num_users=2, num_items=0)


def test_a_key_of_folders_is_a_column_if_every_file_has_it(tmp_path: Path):
    write(tmp_path, GOOD)
    first, second = (tmp_path / "users" / f"ds=2024-01-0{number}" for number in (1, 2))
    (second / "hour=13").mkdir()
    (second / "part-00000.parquet").rename(second / "hour=13" / "part-00000.parquet")
    found = _checks.check(tmp_path, LAST, silent)
    assert found.columns["users"] == {"user_id": "int64", "age": "int64"}
    assert [day.num_users for day in found.days] == [2, 2]
    (first / "hour=1").mkdir()
    (first / "part-00000.parquet").rename(first / "hour=1" / "part-00000.parquet")
    assert _checks.check(tmp_path, LAST, silent).columns["users"]["hour"] == "string"
