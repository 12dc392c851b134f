"""The Arrow tunnel: sessions that read one partition by row numbers, and sessions that write blocks."""

import itertools
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from odps.tunnel.checksum import Checksum

from recsys_core.odps.emulator.rest import partition_of
from recsys_core.odps.emulator.storage import ReadSession, WriteSession
from recsys_core.odps.emulator.store import Store, Table
from recsys_core.odps.emulator.wire import Answer, RefusedError, Request, as_json
from recsys_core.odps.path import Partition
from recsys_core.odps.tunnel import frame

_BATCH_ROWS = 4_096


class Tunnel:
    """Answers what is below `/projects`."""

    def __init__(self, store: Store, *, max_block_number: int) -> None:
        """Read and write the tables of `store`."""
        self._store, self._max_block_number = store, max_block_number
        self._lock = threading.Lock()
        self._reads: dict[str, tuple[ReadSession, dict[str, Any]]] = {}
        self._writes: dict[str, tuple[WriteSession, dict[int, str]]] = {}

    @staticmethod
    def operation(request: Request) -> str:
        """Return what `Fault` calls the request."""
        params = request.params
        if "downloads" in params:
            return "tunnel_open_read"
        if "downloadid" in params:
            return "tunnel_read" if "data" in params else "tunnel_get_read"
        if "uploads" in params:
            return "tunnel_open_write"
        return {"PUT": "tunnel_write", "POST": "tunnel_commit"}.get(request.method, "tunnel_get_write")

    def answer(self, request: Request, most_batches: int | None = None) -> Answer:
        """Answer a request; a read stream ends after `most_batches`, as if it were whole.

        Raises:
            RefusedError: no such table or session, or one that does not fit.
        """
        parts, params = request.path.strip("/").split("/"), request.params
        # projects/P[/schemas/S]/tables/T
        table = self._store.table(parts[1], parts[3] if parts[2] == "schemas" else None, parts[-1])
        partition = partition_of(params.get("partition", "").replace(",", "/"))
        match self.operation(request):
            case "tunnel_open_read":
                answer = self._open_read(table, partition)
            case "tunnel_get_read":
                answer = self._read_answer(params["downloadid"])
            case "tunnel_read":
                answer = self._read(params, most_batches)
            case "tunnel_open_write":
                answer = self._open_write(table, partition, overwrite=params.get("overwrite") == "true")
            case "tunnel_get_write":
                answer = self._write_answer(params["uploadid"])
            case "tunnel_write":
                answer = self._write(params, request.body)
            case _:
                answer = self._commit(params["uploadid"])
        return answer

    def forget(self) -> None:
        """Let all sessions expire."""
        with self._lock:
            self._reads.clear()
            self._writes.clear()

    def _open_read(self, table: Table, partition: Partition) -> Answer:
        if table.partition_keys and not partition:
            raise RefusedError(400, "MissingPartitionSpec", f"{table.folder.name} is partitioned; name one partition")
        with self._store.lock:
            if table.partition_keys:
                table.existing(partition)
            session = ReadSession(table, [partition] if partition else [], table.schema.names)
        with self._lock:
            self._reads[session.id] = (session, _schema(table))
        return self._read_answer(session.id)

    def _read_answer(self, number: str) -> Answer:
        session, schema = self._session(self._reads, number)
        answer = {"DownloadID": number, "Owner": "emulator", "Status": "NORMAL", "RecordCount": session.num_rows}
        return as_json(answer | {"Schema": schema})

    def _read(self, params: dict[str, str], most_batches: int | None) -> Answer:
        session, _ = self._session(self._reads, params["downloadid"])
        start, count = map(int, params["rowrange"].strip("()").split(","))
        if start < 0 or start + count > session.num_rows:
            raise RefusedError(400, "InvalidRowRange", f"rows {start} to {start + count} of {session.num_rows}")
        if "arrow" not in params:
            raise RefusedError(400, "InvalidArgument", "the emulator's tunnel speaks Arrow only")
        wanted = params["columns"].split(",") if params.get("columns") else session.schema.names
        # In the table's order, whatever the order that was asked for.
        names = [name for name in session.schema.names if name in wanted]
        batches = itertools.islice(session.batches(start, count, _BATCH_ROWS), most_batches)
        return Answer(200, _pieces(batch.select(names) for batch in batches), "application/octet-stream")

    def _open_write(self, table: Table, partition: Partition, *, overwrite: bool) -> Answer:
        with self._store.lock:
            place = table.existing(partition) if table.partition_keys else table.folder
            session = WriteSession(table, partition, place, overwrite=overwrite)
        with self._lock:
            self._writes[session.id] = (session, {})
        return self._write_answer(session.id)

    def _write_answer(self, number: str) -> Answer:
        session, blocks = self._session(self._writes, number)
        return as_json(
            {
                "UploadID": number,
                "Status": "CLOSED" if session.state == "COMMITTED" else "NORMAL",
                "UploadedBlockList": [{"BlockID": block} for block in sorted(blocks)],
                "Schema": _schema(session.table),
                "MaxFieldSize": 8 << 20,
            }
        )

    def _write(self, params: dict[str, str], body: bytes) -> Answer:
        session, blocks = self._session(self._writes, params["uploadid"])
        block = int(params["blockid"])
        if not 0 <= block < self._max_block_number:
            raise RefusedError(
                400, "InvalidBlockID", f"block {block} where the largest is {self._max_block_number - 1}"
            )
        schema = session.table.schema
        payload = pa.BufferReader(schema.serialize().to_pybytes() + _unframed(body))
        try:
            with pa.ipc.open_stream(payload) as stream:
                table = stream.read_all()
        except (pa.ArrowException, OSError) as error:
            raise RefusedError(400, "InvalidArgument", f"block {block} is not Arrow batches ({error})") from None
        name = f"part-{block:05d}-{uuid.uuid4().hex[:8]}.parquet"
        pq.write_table(table, session.staging / name, compression="zstd")
        with self._lock:
            blocks[block] = name
        return Answer(200)

    def _commit(self, number: str) -> Answer:
        session, blocks = self._session(self._writes, number)
        with self._store.lock:
            if session.state == "COMMITTED":
                raise RefusedError(400, "StatusConflict", f"the session {number} is closed already")
            session.commit(blocks.values())
        return self._write_answer(number)

    def _session(self, sessions: dict[str, Any], number: str) -> Any:
        with self._lock:
            found = sessions.get(number)
        if found is None:
            raise RefusedError(404, "NoSuchSession", f"the session {number} does not exist or has expired")
        return found


def _schema(table: Table) -> dict[str, Any]:
    columns, keys = (
        [{"name": name, "type": kind, "comment": "", "isNullable": True} for name, kind in pairs]
        for pairs in (table.columns, table.partition_keys)
    )
    return {"columns": columns, "partitionKeys": keys}


def _pieces(batches: Iterator[pa.RecordBatch]) -> Iterator[bytes]:
    """Yield a stream in pieces: what comes before any batch, each batch as far as chunks are full, the rest."""
    frames = frame(batch.serialize() for batch in batches)
    yield next(frames)
    yield from frames


def _unframed(body: bytes) -> bytes:
    """Return the payload.

    Raises:
        RefusedError: a checksum is wrong, or the body ends early.
    """
    size, whole, payload = int.from_bytes(body[:4], "big"), Checksum(), []
    at = 4
    while True:
        chunk, own = body[at : at + size], Checksum()
        last = len(body) - at < size + 4
        content = body[at:-4] if last else chunk
        (whole if last else own).update(content)
        if not last:
            whole.update(content)
        checksum = int.from_bytes(body[-4:] if last else body[at + size : at + size + 4], "big")
        if len(body) - at < 4 or checksum != (whole if last else own).getvalue():
            raise RefusedError(400, "ChecksumError", "a checksum does not fit; the block came damaged")
        payload.append(content)
        at += size + 4
        if last:
            return b"".join(payload)
