"""Whatever a MaxCompute does to requests, and wherever a job stops: each row is read once, and written once."""

import json
import os
import pickle
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recsys_core.loading.epoch_order import EpochOrder
from recsys_core.loading.rank_batches import RankBatches
from recsys_core.loading.row_ranges import RowRange, merge
from recsys_core.odps.credentials import Keys
from recsys_core.odps.emulator import Emulator, Fault
from recsys_core.readers.odps import Config, Reader
from recsys_core.writers import odps as writer

NUM_ROWS = 1_203
DAYS = ("2024-01-01", "2024-01-02", "2024-01-03")
WAITS = {"first_wait_seconds": 0, "most_wait_seconds": 0}
SLOW = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]


class Service(NamedTuple):
    """An emulator with temporary keys, and the file that a job finds them in."""

    emulator: Emulator
    keys: Path
    rows: pa.Table

    def rotate(self) -> None:
        """Let the token that is in use expire; the file has another."""
        number = int(json.loads(self.keys.read_text())["securityToken"]) + 1 if self.keys.exists() else 0
        fields = {"accessKeyId": "ak", "accessKeySecret": "a secret", "securityToken": str(number)}
        self.keys.write_text(json.dumps(fields))
        self.emulator.keyring.replace([Keys("ak", "a secret", str(number))])

    def forget(self) -> None:
        """Let all sessions expire."""
        self.emulator.storage.forget()
        self.emulator.tunnel.forget()


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    """One emulator for all examples, with a table `t` of three days."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        rows = pa.table(
            {
                "row": pa.array(range(NUM_ROWS)),
                "text": [f"row {i}" * (i % 5) for i in range(NUM_ROWS)],
                "list": [list(range(i % 4)) if i % 7 else None for i in range(NUM_ROWS)],
                "ds": [DAYS[3 * i // NUM_ROWS] for i in range(NUM_ROWS)],
            }
        )
        for day in DAYS:
            place = Path(folder) / "odps" / "shop" / "t" / f"ds={day}"
            place.mkdir(parents=True)
            own = rows.filter(pc.equal(rows["ds"], day)).drop_columns(["ds"])
            pq.write_table(own, place / "a.parquet", row_group_size=101)
        with Emulator(Path(folder) / "odps", []) as running:
            found = Service(running, Path(folder) / "keys.json", rows)
            found.rotate()
            for name in ("ODPS_CONFIG_FILE_PATH", "ODPS_ACCESS_ID", "ODPS_ACCESS_KEY"):
                patch.delenv(name, raising=False)
            patch.setenv("ODPS_STS_ACCOUNT_FILE", str(found.keys))
            patch.setenv("ODPS_ENDPOINT", running.endpoint)
            patch.setenv("NO_PROXY", "127.0.0.1")
            yield found


def _faults(interface: str, operations: tuple[str, ...], kinds: tuple[str, ...]) -> st.SearchStrategy[list[Fault]]:
    prefix = "tunnel_" if interface == "tunnel" else ""
    one = st.builds(
        Fault,
        kind=st.sampled_from(kinds),
        operation=st.sampled_from([prefix + operation for operation in operations]),
        times=st.integers(1, 3),
        skip=st.integers(0, 4),
        after=st.integers(0, 6),
        status=st.sampled_from([429, 500, 502, 503]),
    )
    return st.lists(one, max_size=3)


_INTERFACES = st.sampled_from(["storage", "tunnel"])
_READING = _INTERFACES.flatmap(
    lambda by: st.tuples(
        st.just(by),
        st.lists(
            st.one_of(
                _faults(by, ("read",), ("short", "cut", "truncated", "reset", "lost", "status")),
                _faults(by, ("open_read", "get_read"), ("reset", "lost", "status")),
            ),
            min_size=4,
            max_size=4,
        ),
    )
)
_STOPS = st.lists(
    st.fixed_dictionaries(
        {
            "num_ranks": st.integers(1, 3),
            "num_threads": st.integers(1, 3),
            "batch_size": st.integers(40, 300),
            "num_steps": st.integers(0, 3),
            "reopens": st.booleans(),
            "then": st.sampled_from(["nothing", "token expires", "sessions expire"]),
        }
    ),
    max_size=3,
)
_LAST = {"num_ranks": 2, "num_threads": 2, "batch_size": 200, "num_steps": None, "reopens": False, "then": "nothing"}


@settings(max_examples=40, deadline=None, suppress_health_check=SLOW)
@given(
    reading=_READING,
    rows_per_block=st.integers(50, 700),
    max_batch_rows=st.integers(7, 400),
    shuffle_rows=st.sampled_from([0, 200, 5_000]),
    compression=st.sampled_from(["none", "LZ4_FRAME", "ZSTD"]),
    stops=_STOPS,
)
def test_any_faults_ranks_and_stops_read_exactly_the_table(
    service: Service,
    reading: tuple[str, list[list[Fault]]],
    rows_per_block: int,
    max_batch_rows: int,
    shuffle_rows: int,
    compression: str,
    stops: list[dict[str, Any]],
) -> None:
    interface, faults = reading
    service.emulator.faults.clear()
    fields: dict[str, Any] = {
        "path": "odps://shop/tables/t",
        "interface": interface,
        "rows_per_block": rows_per_block,
        "max_batch_rows": max_batch_rows,
        "compression": compression,
        "on_lost_session": "reopen",
        "retry": WAITS,
    }
    config = Config.model_validate(fields)
    opened = Reader(config)
    state, fingerprint = opened.state(), opened.fingerprint
    consumed: list[RowRange] = []
    seen: list[pa.Table] = []
    for stop, trouble in zip([*stops, _LAST], faults, strict=False):
        service.emulator.faults.add(*trouble)
        if stop["reopens"]:
            again = Reader(config)
            assert again.fingerprint == fingerprint
            state = again.state()
        tables = [Reader(config, json.loads(json.dumps(state))) for _ in range(stop["num_ranks"])]
        order = EpochOrder(tables[0].block_rows, seed=1, epoch=0, shuffle_rows=shuffle_rows, rows_per_turn=64)
        shards = [
            RankBatches(
                table,
                order,
                service.rows.column_names,
                batch_size=stop["batch_size"],
                rank=rank,
                num_ranks=stop["num_ranks"],
                consumed=consumed,
                num_threads=stop["num_threads"],
            )
            for rank, table in enumerate(tables)
        ]
        for taken, step in enumerate(zip(*shards, strict=True)):
            if taken == stop["num_steps"]:
                break
            seen += [part.table for part in step]
            consumed = merge([*consumed, *(at for part in step for at in part.consumed)])
            if taken == 0:
                {"token expires": service.rotate, "sessions expire": service.forget, "nothing": dict}[stop["then"]]()
    found = pa.concat_tables(seen)
    if not shuffle_rows and not stops:
        assert found.num_rows == NUM_ROWS
    assert found.sort_by("row").equals(service.rows)


_WRITING = _INTERFACES.flatmap(
    lambda by: st.tuples(
        st.just(by),
        _faults(by, ("open_write", "write", "commit", "get_write", "open_read"), ("reset", "lost", "status")),
        _faults(by, ("open_write", "commit"), ("wait",)),
    )
)


@settings(max_examples=40, deadline=None, suppress_health_check=SLOW)
@given(
    writing=_WRITING,
    metadata=_faults("storage", ("metadata", "sql"), ("reset", "lost", "status")),
    num_rows=st.integers(0, NUM_ROWS),
    num_parts=st.integers(1, 4),
    block_bytes=st.sampled_from([3_000, 20_000, 1 << 20]),
    rotates=st.booleans(),
    killed=st.booleans(),
)
def test_any_faults_write_every_row_once(
    service: Service,
    writing: tuple[str, list[Fault], list[Fault]],
    metadata: list[Fault],
    num_rows: int,
    num_parts: int,
    block_bytes: int,
    rotates: bool,
    killed: bool,
) -> None:
    interface, *trouble = writing
    service.emulator.faults.clear()
    path = "odps://shop/tables/out/ds=2024-01-01"
    retry = WAITS | {"attempts": 12}
    fields = {"path": path, "interface": interface, "block_bytes": block_bytes, "retry": retry}
    config = writer.Config.model_validate(fields)
    rows = service.rows.drop_columns(["ds"]).slice(0, num_rows)
    service.emulator.faults.add(*metadata, *trouble[0], *trouble[1])
    if killed:
        # What an attempt that never commits has sent belongs to no table.
        _write(config, rows, 2, commits=False)
    table, state, receipts = _write(config, rows, num_parts, commits=True)
    if rotates:
        service.rotate()
    assert table.commit(state, receipts) == num_rows
    service.emulator.faults.clear()
    read = Reader(Config.model_validate({"path": path, "retry": WAITS}))
    assert read.num_rows == num_rows
    found = [read.read(block, rows.column_names) for block in range(len(read.block_rows))]
    assert pa.concat_tables([rows.schema.empty_table(), *found]).sort_by("row").equals(rows)


def _write(config: writer.Config, rows: pa.Table, num_parts: int, *, commits: bool) -> tuple[Any, Any, list[Any]]:
    table = writer.Table(config)
    state = table.begin(rows.schema)
    receipts = []
    for number in range(num_parts):
        low, high = (rows.num_rows * at // num_parts for at in (number, number + 1))
        with table.part(state, number) as part:
            part.write(rows.slice(low, high - low))
        receipts.append(part.close())
    if not commits:
        table.abandon(state)
    return table, state, receipts


@pytest.mark.parametrize("interface", ["storage", "tunnel"])
def test_forked_and_started_workers_read_through_faults(service: Service, interface: str) -> None:
    service.emulator.faults.clear()
    fields = {"path": "odps://shop/tables/t", "interface": interface, "rows_per_block": 90, "max_batch_rows": 31}
    table = Reader(Config.model_validate(fields | {"retry": WAITS}))
    # This thread has an open connection from here on, which children must not talk over.
    assert table.read(0, ["row"]).num_rows == 90
    prefix = "tunnel_" if interface == "tunnel" else ""
    kinds = ("short", "cut", "truncated", "reset", "lost", "status")
    trouble = [{"kind": kind, "operation": f"{prefix}read", "after": 1, "skip": 1, "status": 429} for kind in kinds]
    service.emulator.faults.add(*(Fault.model_validate(fault) for fault in trouble))
    forked = [_forked(table, rank, 3) for rank in range(3)]
    found = [_received(*child) for child in forked]
    assert pa.concat_tables(found).sort_by("row").equals(service.rows)
    service.rotate()
    service.emulator.faults.add(*(Fault.model_validate(fault) for fault in trouble))
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        started = [pool.submit(table.read, block, table.schema.names) for block in range(len(table.block_rows))]
        assert pa.concat_tables([part.result() for part in started]).sort_by("row").equals(service.rows)


def _shard_of(table: Reader, rank: int, num_ranks: int) -> pa.Table:
    order = EpochOrder(table.block_rows, seed=2, epoch=0, shuffle_rows=300)
    shard = RankBatches(table, order, table.schema.names, batch_size=100, rank=rank, num_ranks=num_ranks)
    return pa.concat_tables([rows.table for rows in shard])


def _forked(table: Reader, rank: int, num_ranks: int) -> tuple[int, int]:
    back, front = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(back)
        with os.fdopen(front, "wb") as out:
            pickle.dump(_shard_of(table, rank, num_ranks), out)
        os._exit(0)
    os.close(front)
    return child, back


def _received(child: int, back: int) -> pa.Table:
    with os.fdopen(back, "rb") as answer:
        found = pickle.load(answer)
    assert os.waitpid(child, 0)[1] == 0
    return found
