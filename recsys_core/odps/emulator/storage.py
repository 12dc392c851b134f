"""The Storage API, version 1: sessions that read a snapshot by row numbers, and sessions that write blocks."""

import io
import itertools
import json
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from recsys_core.odps.emulator.rest import partition_of
from recsys_core.odps.emulator.store import Store, Table
from recsys_core.odps.emulator.wire import Answer, RefusedError, Request, as_json
from recsys_core.odps.path import Partition

PREFIX = "/api/storage/v1/projects/"
MAX_BLOCK_NUMBER = 20_000
_LIFE_SECONDS = 86_400
_KEPT_GROUPS = 8
_COMPRESSIONS = {"LZ4_FRAME": "lz4", "ZSTD": "zstd"}


class ReadSession:
    """A snapshot: files that are held open are read to their end, even if they are replaced meanwhile."""

    def __init__(self, table: Table, partitions: list[Partition], names: list[str]) -> None:
        """Hold the files of `partitions` (none: the table's own) open, to read columns `names`."""
        self.id, self.expires = uuid.uuid4().hex, time.time() + _LIFE_SECONDS
        schema = table.schema
        keys = [key for key, _ in table.partition_keys]
        self.schema = pa.schema([schema.field(n) if n in schema.names else pa.field(n, pa.string()) for n in names])
        self._own = [name for name in names if name not in keys]
        self._groups: list[tuple[pq.ParquetFile, int, dict[str, str], int]] = []
        self._lock, self._kept = threading.Lock(), OrderedDict[int, pa.Table]()
        for partition in partitions or [()]:
            for path in table.files(partition):
                file = pq.ParquetFile(path, memory_map=True)
                for group in range(file.metadata.num_row_groups):
                    self._groups.append((file, group, dict(partition), file.metadata.row_group(group).num_rows))
        self._starts = list(itertools.accumulate((rows for *_, rows in self._groups), initial=0))
        self.num_rows = self._starts[-1]

    def batches(self, start: int, count: int, most: int) -> Iterator[pa.RecordBatch]:
        """Yield `count` rows from row `start` on, up to `most` at a time."""
        stop = start + count
        for number, (low, high) in enumerate(itertools.pairwise(self._starts)):
            if low < stop and high > start:
                a, b = max(start, low) - low, min(stop, high) - low
                yield from self._group(number).slice(a, b - a).to_batches(max_chunksize=most)

    def _group(self, number: int) -> pa.Table:
        with self._lock:
            if number not in self._kept:
                file, group, values, _ = self._groups[number]
                table = file.read_row_group(group, columns=self._own)
                for key in self.schema.names:
                    if key not in self._own:
                        table = table.append_column(key, pa.repeat(pa.scalar(values[key]), table.num_rows))
                self._kept[number] = table.select(self.schema.names).cast(self.schema).combine_chunks()
                if len(self._kept) > _KEPT_GROUPS:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(number)
            return self._kept[number]


class WriteSession:
    """Files that lie aside until they are committed."""

    def __init__(self, table: Table, partition: Partition, place: Path, *, overwrite: bool) -> None:
        """Write to `place`, the folder of `partition`; `overwrite` replaces what is there."""
        self.id, self.expires = uuid.uuid4().hex, time.time() + _LIFE_SECONDS
        self.table, self.place, self.overwrite, self.state = table, place, overwrite, "NORMAL"
        self.partition = partition
        self.staging = table.folder / f".staging-{self.id}"
        self.staging.mkdir()

    def commit(self, names: Iterable[str]) -> None:
        """Move the files `names` into their place; the others are dropped. The store is locked meanwhile."""
        if self.overwrite:
            for file in self.table.files(self.partition):
                file.unlink()
        for name in names:
            (self.staging / name).rename(self.place / name)
        for file in self.staging.iterdir():
            file.unlink()
        self.staging.rmdir()
        self.state = "COMMITTED"


class Storage:
    """Answers what is below `/api/storage/v1`."""

    def __init__(self, store: Store, *, max_block_number: int = MAX_BLOCK_NUMBER) -> None:
        """Read and write the tables of `store`."""
        self._store, self._max_block_number = store, max_block_number
        self._lock = threading.Lock()
        self._reads: dict[str, ReadSession] = {}
        self._writes: dict[str, WriteSession] = {}

    @staticmethod
    def operation(request: Request) -> str:
        """Return what `Fault` calls the request."""
        kind = "write" if request.params.get("session_type") == "batch_write" else "read"
        if request.path.endswith("/sessions"):
            return f"open_{kind}"
        if request.path.endswith("/commit"):
            return "commit"
        if request.path.endswith("/data"):
            return "read" if request.method == "GET" else "write"
        return f"get_{kind}"

    def answer(self, request: Request) -> Answer:
        """Answer a request.

        Raises:
            RefusedError: no such table or session, or one that does not fit.
        """
        project, _, schema, _, name, *rest = request.path.removeprefix(PREFIX).split("/")
        table = self._store.table(project, schema, name)
        operation = self.operation(request)
        if operation == "open_read":
            answer = self._open_read(table, json.loads(request.body))
        elif operation == "get_read":
            answer = self._read_answer(self._session(self._reads, rest[1]), 200)
        elif operation == "read":
            answer = self._read(request)
        elif operation == "open_write":
            answer = self._open_write(table, json.loads(request.body))
        elif operation == "get_write":
            answer = self._write_answer(self._session(self._writes, rest[1]), 200)
        elif operation == "write":
            answer = self._write(self._session(self._writes, rest[1]), request)
        else:
            answer = self._commit(request)
        return answer

    def forget(self, session_id: str | None = None) -> None:
        """Let a session expire; without a name, all of them."""
        with self._lock:
            for sessions in (self._reads, self._writes):
                for key in [session_id] if session_id else list(sessions):
                    sessions.pop(key, None)

    def _session(self, sessions: dict[str, Any], number: str) -> Any:
        with self._lock:
            session = sessions.get(number)
        if session is None:
            raise RefusedError(404, "NoSuchObject", f"the session {number} does not exist or has expired")
        return session

    def _open_read(self, table: Table, asked: dict[str, Any]) -> Answer:
        if asked["SplitOptions"]["SplitMode"] != "RowOffset":
            raise RefusedError(400, "InvalidArgument", "the emulator splits by RowOffset only")
        with self._store.lock:
            partitions = [partition_of(text) for text in asked["RequiredPartitions"]] or table.partitions()
            names = [*(asked["RequiredDataColumns"] or table.schema.names), *asked["RequiredPartitionColumns"]]
            known = [*table.schema.names, *(key for key, _ in table.partition_keys)]
            if missing := [name for name in names if name not in known]:
                raise RefusedError(400, "InvalidArgument", f"no column {missing[0]!r} in {table.folder.name}")
            # Without partitions a partitioned table has no rows, and no files to look at.
            session = ReadSession(table, partitions, names) if partitions or not table.partition_keys else None
        if session is None:
            raise RefusedError(404, "NoSuchPartition", f"{table.folder.name} has no partitions")
        with self._lock:
            self._reads[session.id] = session
        return self._read_answer(session, 201)

    @staticmethod
    def _read_answer(session: ReadSession, status: int) -> Answer:
        session.expires = time.time() + _LIFE_SECONDS
        return as_json(
            {
                "SessionId": session.id,
                "SessionType": "batch_read",
                "SessionStatus": "NORMAL",
                "ExpirationTime": int(session.expires * 1000),
                "SplitsCount": -1,
                "RecordCount": session.num_rows,
                "DataSchema": {"DataColumns": [], "PartitionColumns": []},
                "SupportedDataFormat": [{"Type": "ARROW", "Version": "V5"}],
            },
            status,
        )

    def _read(self, request: Request) -> Answer:
        params = request.params
        session: ReadSession = self._session(self._reads, params["session_id"])
        start, count, most = (int(params[key]) for key in ("row_index", "row_count", "max_batch_rows"))
        if start < 0 or start + count > session.num_rows:
            raise RefusedError(
                400, "InvalidArgument", f"rows {start} to {start + count} where there are {session.num_rows}"
            )
        compression = _COMPRESSIONS.get(request.headers.get("accept-encoding", ""))
        stream = _stream(session.schema, session.batches(start, count, most), compression)
        return Answer(200, stream, "application/octet-stream")

    def _open_write(self, table: Table, asked: dict[str, Any]) -> Answer:
        partition = partition_of(asked["PartitionSpec"])
        with self._store.lock:
            place = table.existing(partition) if table.partition_keys else table.folder
            session = WriteSession(table, partition, place, overwrite=asked["Overwrite"])
        with self._lock:
            self._writes[session.id] = session
        return self._write_answer(session, 201)

    def _write_answer(self, session: WriteSession, status: int) -> Answer:
        return as_json(
            {
                "SessionId": session.id,
                "SessionStatus": session.state,
                "ExpirationTime": int(session.expires * 1000),
                "MaxBlockNumber": self._max_block_number,
                "DataSchema": {"DataColumns": [], "PartitionColumns": []},
                "SupportedDataFormat": [{"Type": "ARROW", "Version": "V5"}],
                "RequiredOrdering": [],
                "RequiredDistribution": {},
            },
            status,
        )

    def _write(self, session: WriteSession, request: Request) -> Answer:
        block, attempt = (int(request.params[key]) for key in ("block_number", "attempt_number"))
        if not 0 <= block < self._max_block_number:
            raise RefusedError(
                400, "InvalidArgument", f"block {block} where the largest is {self._max_block_number - 1}"
            )
        try:
            with pa.ipc.open_stream(request.body) as reader:
                table = reader.read_all()
        except (pa.ArrowException, OSError) as error:
            raise RefusedError(400, "InvalidArgument", f"block {block} is not an Arrow stream ({error})") from None
        if table.schema != session.table.schema:
            raise RefusedError(400, "InvalidArgument", f"block {block} has other columns than {session.table.columns}")
        name = f"part-{block:05d}-{attempt}-{session.id[:8]}.parquet"
        pq.write_table(table, session.staging / name, compression="zstd")
        return as_json({"CommitMessage": json.dumps([session.id, block, name])})

    def _commit(self, request: Request) -> Answer:
        session: WriteSession = self._session(self._writes, request.params["session_id"])
        messages = [json.loads(message) for message in json.loads(request.body)["CommitMessages"]]
        with self._store.lock:
            if session.state == "COMMITTED":
                raise RefusedError(400, "InvalidArgument", f"the session {session.id} is committed already")
            blocks = [block for _, block, _ in messages]
            if len(set(blocks)) < len(blocks) or any(number != session.id for number, *_ in messages):
                raise RefusedError(400, "InvalidArgument", "a block twice, or one of another session")
            session.commit(name for _, _, name in messages)
        return self._write_answer(session, 201)


def _stream(schema: pa.Schema, batches: Iterator[pa.RecordBatch], compression: str | None) -> Iterator[bytes]:
    """Yield an Arrow stream in pieces: the schema, each batch, the end."""
    sink = io.BytesIO()

    def taken() -> bytes:
        piece = sink.getvalue()
        sink.seek(0)
        sink.truncate()
        return piece

    writer = pa.ipc.new_stream(sink, schema, options=pa.ipc.IpcWriteOptions(compression=compression))
    yield taken()
    for batch in batches:
        writer.write_batch(batch)
        yield taken()
    writer.close()
    yield taken()
