from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys_core.odps.emulator import Emulator, Fault
from recsys_core.readers.odps import Reader
from recsys_core.writers import odps as writer

TABLE = "odps://shop/tables/t"


def read_all(table: Reader, columns: list[str] | None = None) -> pa.Table:
    """Every row, in order."""
    names = columns or table.schema.names
    return pa.concat_tables([table.read(block, names) for block in range(len(table.block_rows))])


DAY = f"{TABLE}/ds=2024-01-01"


def test_a_rerun_replaces_its_partition_and_no_other(
    every_type: Callable, write: Callable, opened: Callable, tmp_path: Path
) -> None:
    rows = every_type(900)
    assert write(DAY, rows, parts=3, lifecycle_days=30, block_bytes=5_000, compression="ZSTD") == 900
    assert write(f"{TABLE}/ds=2024-01-02", rows.slice(0, 5)) == 5
    read = read_all(opened(DAY), rows.column_names)
    assert read.sort_by("id").equals(rows)
    assert write(DAY, rows.slice(0, 7)) == 7
    assert opened(DAY).num_rows == 7
    assert opened(TABLE).num_rows == 12
    assert '"lifecycle": 30' in (tmp_path / "odps" / "shop" / "t" / "_table.json").read_text()


def test_vectors_and_other_types_become_those_of_maxcompute(write: Callable, opened: Callable) -> None:
    vectors = pa.FixedSizeListArray.from_arrays(pa.array([1, 2, 3, 4], pa.float32()), 2)
    write(TABLE, pa.table({"item_id": pa.array(["a", "b"], pa.large_string()), "embedding": vectors}))
    read = read_all(opened(TABLE))
    assert read.schema == pa.schema([("item_id", pa.string()), ("embedding", pa.list_(pa.float32()))])
    assert read.column("embedding").to_pylist() == [[1, 2], [3, 4]]


def test_parts_without_rows_are_fine(write: Callable, opened: Callable, every_type: Callable) -> None:
    rows = every_type(2)
    assert write(DAY, rows, parts=5) == 2
    assert write(DAY, rows.slice(0, 0), parts=2) == 0
    assert opened(DAY).num_rows == 0


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "status", "operation": "write", "status": 500, "times": 2},
        {"kind": "status", "operation": "write", "status": 429, "times": 2},
        {"kind": "reset", "operation": "write", "times": 2},
        {"kind": "lost", "operation": "write", "times": 2},
        {"kind": "wait", "operation": "write"},  # a 2xx that is not 200, and carries no commit message
        {"kind": "lost", "operation": "commit"},
        {"kind": "wait", "operation": "commit"},
        {"kind": "status", "operation": "commit", "status": 503},
        {"kind": "reset", "operation": "commit", "times": 2},
        {"kind": "lost", "operation": "open_write"},
        {"kind": "status", "operation": "sql", "times": 1},
        {"kind": "wait", "operation": "open_write"},
    ],
    ids=lambda f: "-".join(map(str, f.values())),
)
def test_rows_are_written_exactly_once(
    fault: dict, emulator: Emulator, every_type: Callable, write: Callable, opened: Callable
) -> None:
    rows = every_type(300)
    emulator.faults.add(Fault(**fault))
    assert write(DAY, rows, parts=2, block_bytes=10_000) == 300
    assert read_all(opened(DAY), rows.column_names).sort_by("id").equals(rows)


def test_a_second_commit_changes_nothing(emulator: Emulator, every_type: Callable, opened: Callable) -> None:
    rows = every_type(10)
    table = writer.Table(writer.Config(path=TABLE))
    state = table.begin(rows.schema)
    with table.part(state, 0) as part:
        part.write(rows)
    with pytest.raises(RuntimeError, match="enough"), table.part(state, 1) as dropped:
        raise RuntimeError("enough")
    table.abandon(state)
    assert opened(TABLE).num_rows == 0
    assert part.close() == part.close()
    assert table.commit(state, [part.close()]) == 10
    with pytest.raises(ValueError, match="committed already"):
        table.commit(state, [part.close()])
    assert opened(TABLE).num_rows == 10
    assert dropped.num_rows == 0


def test_rows_that_something_else_changed_are_noticed(emulator: Emulator, every_type: Callable, tmp_path: Path) -> None:
    rows = every_type(10)
    table = writer.Table(writer.Config(path=TABLE))
    state = table.begin(rows.schema)
    with table.part(state, 0) as part:
        part.write(rows)
    receipt = part.close().model_copy(update={"num_rows": 11})
    with pytest.raises(ValueError, match="holds 10 rows after 11 were committed"):
        table.commit(state, [receipt])


@pytest.mark.parametrize(
    ("path", "config", "said"),
    [
        (f"{DAY}&ds=2024-01-02", {}, "one table and one partition"),
        (f"{TABLE},odps://shop/tables/u", {}, "one table and one partition"),
        ("odps://shop/tables/plain/ds=1", {}, "is not partitioned"),
        ("odps://shop/tables/parted", {}, "the table is partitioned by ds; name one whole partition"),
        ("odps://shop/tables/plain", {}, "column 'text' is absent in the table and string in the rows"),
        ("odps://none/tables/t", {}, "NoSuchProject"),
        (f"{TABLE}/id=1", {}, "'id' is a column and a partition key"),
        (TABLE, {"max_parts": 1}, "part 1 where max_parts is 1"),
        (TABLE, {"block_bytes": 1, "max_parts": 4_000}, "the session takes 20000 blocks, and this would be number"),
    ],
)
def test_what_cannot_be_written_is_refused(
    path: str, config: dict, said: str, emulator: Emulator, every_type: Callable, write: Callable
) -> None:
    write("odps://shop/tables/plain", pa.table({"id": [1]}))
    write("odps://shop/tables/parted/ds=1", every_type(1).select(["id", "text"]))
    with pytest.raises(ValueError, match=said):
        write(path, every_type(30).select(["id", "text"]), parts=2, **config)


def test_a_column_that_no_table_can_hold_is_named(emulator: Emulator) -> None:
    schema = pa.schema([("at", pa.time32("s"))])
    with pytest.raises(ValueError, match="column 'at': MaxCompute has no type for Arrow's time32"):
        writer.Table(writer.Config(path=TABLE)).begin(schema)


def test_a_session_that_fails_is_no_success(emulator: Emulator, every_type: Callable, write: Callable) -> None:
    emulator.faults.add(Fault(kind="state", operation="commit", text="CRITICAL"))
    emulator.faults.add(Fault(kind="state", operation="get_write", text="CRITICAL"))
    with pytest.raises(ValueError, match="will not become COMMITTED"):
        write(TABLE, every_type(10))
    emulator.faults.add(Fault(kind="gone", operation="write"))
    with pytest.raises(ValueError, match="has ended the session"):
        write(TABLE, every_type(10))


def test_written_folders_are_plain_parquet(every_type: Callable, write: Callable, tmp_path: Path) -> None:
    rows = every_type(20)
    write(DAY, rows)
    assert pq.read_table(tmp_path / "odps" / "shop" / "t" / "ds=2024-01-01").select(["id"]).num_rows == 20
