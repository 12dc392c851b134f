import concurrent.futures
import json
import multiprocessing
import os
import pickle
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recsys_core import readers
from recsys_core.odps.emulator import Emulator, Fault
from recsys_core.readers.odps import Reader

TABLE = "odps://shop/tables/t"


def read_all(table: Reader, columns: list[str] | None = None) -> pa.Table:
    """Every row, in order."""
    names = columns or table.schema.names
    return pa.concat_tables([table.read(block, names) for block in range(len(table.block_rows))])


def test_every_type_arrives_as_it_was_written(every_type: Callable, write: Callable, opened: Callable) -> None:
    rows = every_type(5_000)
    write(TABLE, rows)
    for compression in ("none", "LZ4_FRAME", "ZSTD"):
        table = opened(TABLE, rows_per_block=1_999, max_batch_rows=500, compression=compression)
        assert table.block_rows.tolist() == [1_999, 1_999, 1_002]
        assert table.schema == rows.schema
        assert read_all(table).equals(rows)


def test_columns_and_partitions(every_type: Callable, write: Callable, opened: Callable) -> None:
    rows = every_type(40).select(["id", "text"])
    for day, hour, start in (("1", "00", 0), ("1", "01", 10), ("2", "00", 20), ("2", "a b", 30)):
        write(f"{TABLE}/ds={day}/hh={hour}", rows.slice(start, 10))
    whole = opened(TABLE)
    assert whole.schema.names == ["id", "text", "ds", "hh"]
    assert read_all(whole, ["id"]).column(0).to_pylist() == list(range(40))
    # Outer keys stand for all below; partitions come in the order they are named in.
    some = read_all(opened(f"{TABLE}/ds=2/hh=a b&ds=1"), ["hh", "id"])
    assert some.column("id").to_pylist() == [*range(30, 40), *range(20)]
    assert some.column("hh").to_pylist() == ["a b"] * 10 + ["00"] * 10 + ["01"] * 10
    narrow = opened(TABLE, columns=["ds"])
    assert narrow.schema.names == ["ds"]
    assert read_all(narrow).column("ds").to_pylist() == ["1"] * 20 + ["2"] * 20


def test_one_name_in_two_projects_and_schemas_is_three_tables(
    emulator: Emulator, tmp_path: Path, opened: Callable
) -> None:
    for number, place in enumerate(("shop", "other", "shop/sales")):
        folder = tmp_path / "odps" / place / "t"
        folder.mkdir(parents=True)
        pq.write_table(pa.table({"n": [number] * 3}), folder / "a.parquet")
    table = opened(f"{TABLE},odps://other/tables/t,odps://shop/tables/sales.t")
    assert read_all(table).column("n").to_pylist() == [0] * 3 + [1] * 3 + [2] * 3
    assert len(table.fingerprint) == 3
    assert readers.build(readers.infer("odps://shop/schemas/sales/tables/t")).num_rows == 3


@pytest.mark.parametrize(
    ("path", "config", "said"),
    [
        ("odps://shop/tables/none", {}, "odps://shop/tables/none: no such table"),
        ("odps://none/tables/t", {}, "NoSuchProject"),
        (f"{TABLE}/ds=3", {}, "no partition 'ds=3'; it has 2, from ds=1 to ds=2"),
        (f"{TABLE}/hh=3", {}, "names the keys"),
        (TABLE, {"columns": ["ids"]}, "no column 'ids'; did you mean 'id'"),
        (f"{TABLE},odps://shop/tables/u", {}, "id is double there and int64 here; text is absent there"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    path: str, config: dict, said: str, every_type: Callable, write: Callable, opened: Callable
) -> None:
    rows = every_type(5).select(["id", "text"])
    for day in "12":
        write(f"{TABLE}/ds={day}", rows)
    write("odps://shop/tables/u/ds=1", pa.table({"id": pa.array([1], pa.float64())}))
    with pytest.raises(ValueError, match=said):
        opened(path, **config)


FAULTS = [
    *({"kind": kind, "operation": "read", "after": 2, "times": 2} for kind in ("short", "cut", "truncated")),
    *({"kind": kind, "operation": "read", "times": 3} for kind in ("reset", "lost")),
    *({"kind": "status", "operation": "read", "times": 3, "status": status} for status in (429, 500, 503)),
    *({"kind": "status", "operation": op, "status": 503} for op in ("metadata", "open_read")),
    *({"kind": "lost", "operation": op} for op in ("metadata", "open_read")),
    {"kind": "wait", "operation": "open_read"},
    {"kind": "short", "operation": "read", "after": 0},
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: "-".join(map(str, f.values())))
def test_no_row_is_lost_and_none_comes_twice(
    fault: dict, emulator: Emulator, every_type: Callable, write: Callable, opened: Callable
) -> None:
    rows = every_type(1_000)
    write(TABLE, rows)
    emulator.faults.add(Fault(**fault))
    assert read_all(opened(TABLE, rows_per_block=600, max_batch_rows=50)).equals(rows)


def test_a_service_that_stays_down_is_given_up(
    emulator: Emulator, every_type: Callable, write: Callable, opened: Callable
) -> None:
    write(TABLE, every_type(100))
    table = opened(TABLE)
    emulator.faults.clear()
    emulator.faults.add(Fault(kind="reset", operation="read", times=100))
    with pytest.raises(ValueError, match=r"rows 0 to 100: given up after 8 attempts without progress; .*run it again"):
        table.read(0, ["id"])
    assert emulator.faults.requests["read"] == 8


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Fault(kind="state", operation="open_read", text="CRITICAL"), "will not become NORMAL"),
        (Fault(kind="state", operation="open_read", text="FROZEN"), "SessionStatus"),
        (Fault(kind="wait", operation="get_read", times=1_000), "still INIT after 0.2 s"),
        (Fault(kind="status", operation="open_read", status=400), "MaxCompute refused it"),
    ],
)
def test_states_that_are_not_ready_are_not_taken_for_it(
    fault: Fault, said: str, emulator: Emulator, every_type: Callable, write: Callable, opened: Callable
) -> None:
    write(TABLE, every_type(10))
    emulator.faults.add(Fault(kind="wait", operation="open_read"), fault) if fault.operation == "get_read" else (
        emulator.faults.add(fault)
    )
    with pytest.raises(ValueError, match=said):
        opened(TABLE, wait_seconds=0.2)


def test_another_process_reads_the_same_rows_and_asks_for_no_table(
    emulator: Emulator, every_type: Callable, write: Callable, opened: Callable
) -> None:
    rows = every_type(500)
    write(TABLE, rows)
    first = opened(TABLE, rows_per_block=100)
    state = json.loads(json.dumps(first.state()))
    emulator.faults.clear()
    second = opened(TABLE, state, rows_per_block=100)
    assert second.fingerprint == first.fingerprint
    assert read_all(second).equals(rows)
    assert emulator.faults.requests["open_read"] == 0


def test_a_dead_session_is_an_error_with_the_choices_or_reopened(
    emulator: Emulator, every_type: Callable, write: Callable, opened: Callable
) -> None:
    rows = every_type(500)
    write(TABLE, rows)
    state = opened(TABLE).state()
    emulator.storage.forget()
    with pytest.raises(ValueError, match=r"has ended the session .*from its start.*on_lost_session: reopen"):
        opened(TABLE, state).read(0, ["id"])
    again = opened(TABLE, state, on_lost_session="reopen")
    assert read_all(again).equals(rows)
    # As often as the session ends, also in the middle.
    emulator.storage.forget()
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert all(part.equals(rows) for part in pool.map(lambda _: again.read(0, rows.column_names), range(4)))


def test_a_changed_table_is_not_read_on(
    emulator: Emulator, every_type: Callable, write: Callable, opened: Callable
) -> None:
    write(TABLE, every_type(500))
    state = opened(TABLE).state()
    write(TABLE, every_type(400))
    emulator.storage.forget()
    again = opened(TABLE, state, on_lost_session="reopen")
    with pytest.raises(ValueError, match="the table has changed since it was opened .*500 rows.*400 rows"):
        again.read(0, ["id"])


def test_sessions_are_kept_alive_restored_ones_too(
    emulator: Emulator, every_type: Callable, write: Callable, opened: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    write(TABLE, every_type(10))
    table = opened(TABLE)
    state = table.state()
    restored = opened(TABLE, state, refresh_seconds=0.01)
    emulator.faults.clear()
    _until(lambda: emulator.faults.requests["get_read"] > 2)
    emulator.storage.forget()
    _until(lambda: "has ended the session" in caplog.text)
    with pytest.raises(ValueError, match="has ended the session"):
        table.refresh()
    assert restored.state() == state


def _until(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.005)


def _read_block(table: Reader, block: int) -> list:
    return table.read(block, ["id"]).column("id").to_pylist()


def test_forked_and_started_workers_have_connections_of_their_own(
    emulator: Emulator, every_type: Callable, write: Callable, opened: Callable
) -> None:
    write(TABLE, every_type(600))
    table = opened(TABLE, rows_per_block=100)
    expected = [_read_block(table, block) for block in range(6)]  # this thread has an open connection now
    children = []
    for block in range(6):
        back, front = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(front, json.dumps(_read_block(table, block)).encode())
            os._exit(0)
        os.close(front)
        children.append((child, back))
    for block, (child, back) in enumerate(children):
        with os.fdopen(back) as answers:
            assert json.loads(answers.read()) == expected[block]
        assert os.waitpid(child, 0)[1] == 0
    assert b"secret" not in pickle.dumps(table)
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(table.read, 1, ["id"]).result().column("id").to_pylist() == expected[1]


@pytest.fixture(scope="module")
def long_lived() -> tuple[Emulator, pa.Table]:
    """One emulator and table for all that hypothesis makes up."""
    from recsys_core.odps.credentials import Keys

    rows = pa.table({"id": pa.array(range(997)), "text": [f"row {i}" for i in range(997)]})
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        (Path(folder) / "shop" / "t").mkdir(parents=True)
        pq.write_table(rows, Path(folder) / "shop" / "t" / "a.parquet", row_group_size=101)
        with Emulator(Path(folder), [Keys("ak", "a secret")]) as running:
            for name, value in {"ACCESS_ID": "ak", "ACCESS_KEY": "a secret", "ENDPOINT": running.endpoint}.items():
                patch.setenv(f"ODPS_{name}", value)
            yield running, rows


_TROUBLE = st.builds(
    Fault,
    kind=st.sampled_from(["short", "cut", "truncated", "reset", "lost", "status"]),
    operation=st.just("read"),
    times=st.integers(1, 3),
    skip=st.integers(0, 3),
    after=st.integers(0, 6),
    status=st.sampled_from([429, 500, 502, 503]),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows_per_block=st.integers(50, 1_200),
    max_batch_rows=st.integers(7, 400),
    trouble=st.lists(_TROUBLE, max_size=2),
    stop=st.integers(0, 25),
)
def test_any_trouble_at_any_place_changes_no_row(
    long_lived: tuple[Emulator, pa.Table], rows_per_block: int, max_batch_rows: int, trouble: list[Fault], stop: int
) -> None:
    emulator, rows = long_lived
    emulator.faults.clear()
    config = {"path": TABLE, "rows_per_block": rows_per_block, "max_batch_rows": max_batch_rows}
    waits = {"retry": {"first_wait_seconds": 0, "most_wait_seconds": 0}}
    from recsys_core.readers.odps import Config

    first = Reader(Config.model_validate(config | waits))
    emulator.faults.add(*trouble)
    stop = min(stop, len(first.block_rows))
    parts = [first.read(block, rows.column_names) for block in range(stop)]
    # Stopped, and taken up by another process.
    second = Reader(first.config, json.loads(json.dumps(first.state())))
    parts += [second.read(block, rows.column_names) for block in range(stop, len(second.block_rows))]
    assert pa.concat_tables(parts).equals(rows)


def test_partitions_are_distinguished_by_a_key_and_by_what_changed(
    emulator: Emulator, every_type: Callable, write: Callable, tmp_path: Path
) -> None:
    rows = every_type(4).select(["id", "text"])
    for day, hour in (("1", "00"), ("1", "01"), ("2", "00")):
        write(f"{TABLE}/ds={day}/hh={hour}", rows)
    emulator.faults.clear()
    found = readers.parts(TABLE, "ds", lambda value: value == "1")
    assert found is not None
    assert {value: part.path for value, part in found.items()} == {"1": f"{TABLE}/ds=1/hh=00&ds=1/hh=01"}
    assert emulator.faults.requests["open_read"] == 0
    assert readers.build(readers.infer(found["1"].path)).num_rows == 8
    changed = tmp_path / "odps" / "shop" / "t" / "ds=1" / "hh=01"
    os.utime(changed, (time.time() + 60, time.time() + 60))
    again = readers.parts(TABLE, "ds", lambda _: True)
    assert again is not None
    assert list(again) == ["1", "2"]
    assert again["1"].fingerprint != found["1"].fingerprint
    hours = readers.parts(f"{TABLE}/ds=2", "hh", lambda _: True)
    assert hours is not None
    assert {value: part.path for value, part in hours.items()} == {"00": f"{TABLE}/ds=2/hh=00"}
    assert readers.parts(TABLE, "day", lambda _: True) is None
