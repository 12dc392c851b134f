"""The Arrow tunnel, where the Storage API is not open: the same rows, the same guarantees."""

import http.server
import json
import logging
import threading
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from odps import ODPS
from odps.tunnel import TableTunnel

from recsys_core.odps import tunnel
from recsys_core.odps.emulator import Emulator, Fault
from recsys_core.odps.emulator.tunnel import _unframed
from recsys_core.odps.emulator.wire import RefusedError
from recsys_core.readers.odps import Reader
from recsys_core.writers import odps as writer

TABLE = "odps://shop/tables/t"
DAY = f"{TABLE}/ds=2024-01-01"
BY = {"interface": "tunnel"}


def read_all(table: Reader, columns: list[str] | None = None) -> pa.Table:
    """Every row, in order."""
    names = columns or table.schema.names
    return pa.concat_tables([table.read(block, names) for block in range(len(table.block_rows))])


def test_every_type_goes_in_and_out(every_type: Callable, write: Callable, opened: Callable) -> None:
    rows = every_type(5_000)
    assert write(TABLE, rows, parts=3, block_bytes=200_000, **BY) == 5_000
    table = opened(TABLE, rows_per_block=1_999, **BY)
    assert table.schema == rows.schema
    assert read_all(table).sort_by("id").equals(rows)
    # What one interface wrote, the other reads.
    assert read_all(opened(TABLE, interface="storage")).sort_by("id").equals(rows)
    assert write(TABLE, rows.slice(0, 7), **BY) == 7
    assert read_all(opened(TABLE, **BY), ["text", "id"]).equals(rows.slice(0, 7).select(["text", "id"]))


def test_rows_of_many_partitions_have_one_numbering(every_type: Callable, write: Callable, opened: Callable) -> None:
    rows = every_type(40).select(["id", "text"])
    for day, start in (("1", 0), ("2", 10), ("a b", 20)):
        write(f"{TABLE}/ds={day}/hh=00", rows.slice(start, 10), **BY)
    whole = opened(TABLE, rows_per_block=7, **BY)
    assert read_all(whole, ["id"]).column(0).to_pylist() == list(range(30))
    some = opened(f"{TABLE}/ds=a b&ds=1", rows_per_block=7, **BY)
    again = opened(f"{TABLE}/ds=a b&ds=1", json.loads(json.dumps(some.state())), rows_per_block=7)
    for table in (some, again):
        found = read_all(table, ["hh", "ds", "id"])
        assert found.column("id").to_pylist() == [*range(20, 30), *range(10)]
        assert found.column("ds").to_pylist() == ["a b"] * 10 + ["1"] * 10
    assert (
        read_all(opened(TABLE, columns=["ds"], **BY)).column("ds").to_pylist() == ["1"] * 10 + ["2"] * 10 + ["a b"] * 10
    )


FAULTS = [
    *({"kind": kind, "operation": "tunnel_read", "after": 2, "times": 2} for kind in ("short", "cut", "truncated")),
    *({"kind": kind, "operation": "tunnel_read", "times": 3} for kind in ("reset", "lost")),
    *({"kind": "status", "operation": "tunnel_read", "times": 3, "status": status} for status in (429, 500, 503)),
    {"kind": "short", "operation": "tunnel_read", "after": 0},
    {"kind": "truncated", "operation": "tunnel_read", "after": 0},
    {"kind": "wait", "operation": "tunnel_open_read"},
    {"kind": "lost", "operation": "tunnel_open_read"},
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: "-".join(map(str, f.values())))
def test_no_row_is_lost_and_none_comes_twice(
    fault: dict, emulator: Emulator, every_type: Callable, write: Callable, opened: Callable
) -> None:
    rows = every_type(20_000)
    write(TABLE, rows)
    emulator.faults.add(Fault(**fault))
    assert read_all(opened(TABLE, rows_per_block=15_000, **BY)).equals(rows)
    assert emulator.faults.requests["read"] == 0


@pytest.mark.parametrize(
    "fault",
    [
        *({"kind": "status", "operation": "tunnel_write", "status": status, "times": 2} for status in (429, 500)),
        *({"kind": kind, "operation": "tunnel_write", "times": 2} for kind in ("reset", "lost")),
        *({"kind": kind, "operation": "tunnel_commit"} for kind in ("lost", "reset", "wait")),
        {"kind": "status", "operation": "tunnel_commit", "status": 503},
        {"kind": "lost", "operation": "tunnel_open_write"},
        {"kind": "wait", "operation": "tunnel_open_write"},
    ],
    ids=lambda f: "-".join(map(str, f.values())),
)
def test_rows_are_written_exactly_once(
    fault: dict, emulator: Emulator, every_type: Callable, write: Callable, opened: Callable
) -> None:
    rows = every_type(300)
    write(DAY, every_type(400), **BY)
    emulator.faults.add(Fault(**fault))
    assert write(DAY, rows, parts=2, block_bytes=10_000, **BY) == 300
    assert read_all(opened(DAY), rows.column_names).sort_by("id").equals(rows)


@pytest.fixture
def closed(emulator: Emulator, every_type: Callable, write: Callable) -> Emulator:
    """An emulator whose Storage API is refused, and a table in it."""
    write(TABLE, every_type(10), **BY)
    emulator.faults.add(Fault(kind="status", operation="open_read", status=403, times=100))
    emulator.faults.add(Fault(kind="status", operation="open_write", status=403, times=100))
    return emulator


def test_the_tunnel_takes_over_and_one_line_says_so(
    closed: Emulator, every_type: Callable, write: Callable, opened: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        write(TABLE, every_type(20))
        assert write(TABLE, every_type(20), interface="tunnel") == 20
        assert opened(TABLE).num_rows == 20
    lines = [record.getMessage() for record in caplog.records if "by the Arrow tunnel" in record.getMessage()]
    assert [line.split(": MaxCompute")[0] for line in lines] == [
        f"rows of {TABLE} go by the Arrow tunnel: {TABLE}: open a {kind} session of the Storage API"
        for kind in ("write", "read")
    ]
    assert (closed.faults.requests["open_write"], closed.faults.requests["open_read"]) == (1, 1)
    with pytest.raises(ValueError, match="of the Storage API: MaxCompute does not permit it"):
        opened(TABLE, interface="storage")
    with pytest.raises(ValueError, match="of the Storage API: MaxCompute does not permit it"):
        write(TABLE, every_type(20), interface="storage")


@pytest.mark.parametrize("status", [404, 405, 501])
def test_the_tunnel_takes_over_whatever_says_that_the_other_is_not_there(
    emulator: Emulator, every_type: Callable, write: Callable, opened: Callable, status: int
) -> None:
    for operation in ("open_read", "open_write"):
        emulator.faults.add(Fault.model_validate({"kind": "status", "operation": operation, "status": status}))
    write(TABLE, every_type(20))
    assert opened(TABLE).num_rows == 20
    assert (emulator.faults.requests["open_read"], emulator.faults.requests["open_write"]) == (1, 1)


def test_a_gateways_page_is_named(monkeypatch: pytest.MonkeyPatch, opened: Callable) -> None:
    class Gateway(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(b"<html><body>sign in</body></html>")

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Gateway) as gateway:
        threading.Thread(target=gateway.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{gateway.server_port}"
        monkeypatch.setenv("ODPS_ENDPOINT", f"{address}/api")
        with pytest.raises(ValueError, match=f"{address}: answers with a page .status 200, text/html., so it is a"):
            opened(TABLE)
        gateway.shutdown()


def test_if_neither_is_open_both_are_named(closed: Emulator, opened: Callable) -> None:
    closed.faults.add(Fault(kind="status", operation="tunnel_open_read", status=403))
    with pytest.raises(
        ValueError, match=r"the Storage API: .*NoPermission.*; nor is the Arrow tunnel open: .*permit it"
    ):
        opened(TABLE)


def test_an_unopened_storage_api_is_that_of_the_whole_emulator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from recsys_core.odps.credentials import Keys

    (tmp_path / "odps" / "shop").mkdir(parents=True)
    with Emulator(tmp_path / "odps", [Keys("ak", "s")], has_storage_api=False) as running:
        for name, value in {"ACCESS_ID": "ak", "ACCESS_KEY": "s", "ENDPOINT": running.endpoint}.items():
            monkeypatch.setenv(f"ODPS_{name}", value)
        table = writer.Table(writer.Config(path=TABLE))
        state = table.begin(pa.schema([("n", pa.int64())]))
        with table.part(state, 0) as part:
            part.write(pa.table({"n": [1, 2]}))
        assert table.commit(state, [part.close()]) == 2


def test_a_session_that_ended_is_reported_or_reopened(
    emulator: Emulator, every_type: Callable, write: Callable, opened: Callable
) -> None:
    rows = every_type(500)
    write(TABLE, rows)
    state = opened(TABLE, **BY).state()
    emulator.tunnel.forget()
    with pytest.raises(ValueError, match=r"read rows 0 to 500.*has ended the session .*on_lost_session: reopen"):
        opened(TABLE, state).read(0, ["id"])
    assert read_all(opened(TABLE, state, on_lost_session="reopen", **BY)).equals(rows)
    emulator.faults.add(Fault(kind="state", operation="tunnel_open_read", text="EXPIRED"))
    with pytest.raises(ValueError, match="the session is EXPIRED, and will not become NORMAL"):
        opened(TABLE, **BY)


def test_a_block_that_no_rank_wrote_is_not_committed(emulator: Emulator, every_type: Callable) -> None:
    rows = every_type(10)
    table = writer.Table(writer.Config.model_validate({"path": TABLE} | BY))
    state = table.begin(rows.schema)
    parts = [table.part(state, number) for number in range(2)]
    for part in parts:
        part.write(rows)
    receipts = [part.close() for part in parts]
    with pytest.raises(ValueError, match=r"has the blocks \[0, 1\] where \[1\] were written; run the stage again"):
        table.commit(state, receipts[1:])


def test_the_real_client_reads_and_writes(emulator: Emulator, every_type: Callable, write: Callable) -> None:
    rows = every_type(10_000).drop_columns(["seen", "exact"])  # its own arithmetic of zones is not ours
    write(DAY, rows)
    client = ODPS("ak", "a secret", project="shop", endpoint=emulator.endpoint, overwrite_global=False)
    service = TableTunnel(client)
    download = service.create_download_session("t", partition_spec="ds=2024-01-01")
    assert download.count == 10_000
    with download.open_arrow_reader(500, 9_000, columns=["text", "id"]) as reader:
        assert reader.read().equals(rows.select(["text", "id"]).slice(500, 9_000))
    upload = service.create_upload_session("t", partition_spec="ds=2024-01-01", overwrite=True)
    with upload.open_arrow_writer(3) as out:
        out.write(rows.slice(0, 5_000).combine_chunks().to_batches()[0])
    upload.commit([3])
    again = service.create_download_session("t", partition_spec="ds=2024-01-01")
    with again.open_arrow_reader(0, again.count) as reader:
        assert reader.read().select(["id", "text"]).equals(rows.select(["id", "text"]).slice(0, 5_000))


@pytest.mark.parametrize("num_bytes", [0, 1, tunnel.FRAME_BYTES - 1, tunnel.FRAME_BYTES, 3 * tunnel.FRAME_BYTES + 5])
def test_frames_are_checked_to_the_byte(num_bytes: int) -> None:
    payload = bytes(i * i % 251 for i in range(num_bytes))
    messages = [pa.py_buffer(payload[at : at + 40_000]) for at in range(0, num_bytes, 40_000)]
    body = b"".join(tunnel.frame(iter(messages)))
    assert _unframed(body) == payload
    for damaged in (body[:-1], body[:-5], body[: len(body) // 2], body[:-1] + bytes([body[-1] ^ 1])):
        with pytest.raises(RefusedError, match="checksum"):
            _unframed(damaged)
