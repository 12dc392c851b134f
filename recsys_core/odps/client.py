"""What the pipeline asks of MaxCompute, over pyodps' Storage API (version 1, rows by number).

pyodps speaks the wire; that every row arrives once is seen to here: rows are counted, streams that break are taken up
where they broke, blocks are sent again whole, and a commit whose answer was lost is asked about before it is repeated.
"""

import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NamedTuple, TypeVar

import pyarrow as pa
from odps import ODPS, errors, options
from odps.apis import storage_api as api
from odps.rest import RestClient

from recsys_core.odps import path as paths
from recsys_core.odps import retry, types
from recsys_core.odps.credentials import Access
from recsys_core.odps.path import Partition, TablePath

T = TypeVar("T")
Compression = Literal["none", "LZ4_FRAME", "ZSTD"]
_COMPRESSIONS = {
    "none": api.Compression.UNCOMPRESSED,
    "LZ4_FRAME": api.Compression.LZ4_FRAME,
    "ZSTD": api.Compression.ZSTD,
}
_POLL_SECONDS = (0.05, 5.0)
_CHUNK_BYTES = 1 << 20
_METADATA_THREADS = 8
# pyodps' own are two minutes, of which it lets pass several in silence; they are options of the process.
options.connect_timeout, options.read_timeout = 10, 120


def _forget_connections() -> None:
    # A forked child would talk over its parent's sockets: pyodps keeps them by thread, and the thread is the same.
    RestClient._session_local = threading.local()  # noqa: SLF001 - there is no other way to them


os.register_at_fork(after_in_child=_forget_connections)


class LostSessionError(ValueError):
    """A session that the service does not know (any more), or that it has ended."""


class TableInfo(NamedTuple):
    """What a table is: its columns with the partition keys last, as text, and what tells that it has changed."""

    id: str
    modified: int
    schema: pa.Schema
    partition_keys: tuple[str, ...]


class Client:
    """One table of one project. Threads may share it; a process that is started builds its own."""

    def __init__(
        self,
        access: Access,
        path: TablePath,
        *,
        quota_name: str | None = None,
        compression: Compression = "LZ4_FRAME",
        max_batch_rows: int = 16_384,
        wait_seconds: float = 300.0,
        config: retry.Config | None = None,
    ) -> None:
        """Ask just whether projects have schemas here.

        Raises:
            ValueError: the service does not answer, or does not know the keys.
        """
        self._path, self._access, self._retry = path, access, config or retry.Config()
        self._compression, self._max_batch_rows = _COMPRESSIONS[compression], max_batch_rows
        self._wait_seconds = wait_seconds
        self._odps = ODPS(
            access.account,
            project=path.project,
            endpoint=access.endpoint,
            region_name=access.region,
            # Any text keeps it from asking the service, for minutes if that does not answer.
            logview_host=access.endpoint,
            overwrite_global=False,
            rest_client_kwargs={"retry_enabled": False},
        )
        self._table = self._call(
            lambda: self._odps.get_table(path.table, project=path.project, schema=path.schema), "ask for the tenant"
        )
        self._storage = _Storage(self._odps, self._table, rest_endpoint=_url(access), quota_name=quota_name)

    # Tables and partitions

    def info(self) -> TableInfo | None:
        """Return what the table is, None if there is none. As the first request of a job it is cheap and fails fast.

        Raises:
            ValueError: no such project, no right to it, or a column of a type that Arrow cannot hold.
        """
        try:
            self._call(self._table.reload, "look up the table")
        except errors.NoSuchTable:
            return None
        except errors.NoSuchObject as error:
            raise ValueError(f"{self._path.name}: {retry.describe(error)}; check the project and the schema") from None
        told = self._table.table_schema
        keys = tuple(column.name for column in told.partitions)
        fields = []
        for column in told.simple_columns:
            try:
                fields.append(pa.field(column.name, types.to_arrow(str(column.type))))
            except ValueError as error:
                raise ValueError(
                    f"{self._path.name}: column {column.name!r}: {error}; leave it out in a view"
                ) from None
        fields += [pa.field(key, pa.string()) for key in keys]
        modified = int(self._table.last_data_modified_time.timestamp())
        return TableInfo(str(self._table.table_id), modified, pa.schema(fields), keys)

    def partitions(self, wanted: Sequence[Partition], keys: Sequence[str]) -> dict[Partition, int]:
        """Return the whole partitions that `wanted` names, each with the Unix second of its last change.

        A partition that names the outer keys only stands for all below it.

        Raises:
            ValueError: there is none; names those next to it.
        """
        full: dict[Partition, None] = {}
        for partition in wanted:
            if len(partition) == len(keys):
                full[partition] = None
                continue
            below = [one for one in self.all_partitions() if one[: len(partition)] == partition]
            if not below:
                raise ValueError(self._no_partition(partition))
            full |= dict.fromkeys(below)
        with ThreadPoolExecutor(_METADATA_THREADS) as pool:
            return dict(zip(full, pool.map(self._partition_modified, full), strict=True))

    def all_partitions(self) -> list[Partition]:
        """Return every partition of the table, sorted."""
        found = self._call(lambda: [part.partition_spec for part in self._table.partitions], "list the partitions")
        return sorted(tuple(one.kv.items()) for one in found)

    def create_table(self, schema: pa.Schema, keys: Sequence[str], lifecycle: int | None) -> None:
        """Make the table with the columns of `schema` and text partition keys, unless it has been made meanwhile."""
        # As text: pyodps writes the names of a struct's fields in capitals.
        columns = ",\n".join(f"  `{field.name}` {types.from_arrow(field.type)}" for field in schema)
        partitions = ",\n".join(f"  `{key}` string" for key in keys)
        self._call(
            lambda: self._odps.create_table(
                self._path.table,
                (columns, partitions) if keys else columns,
                project=self._path.project,
                schema=self._path.schema,
                if_not_exists=True,
                lifecycle=lifecycle,
                hints={"odps.sql.type.system.odps2": "true"},
            ),
            "create the table",
        )

    def create_partition(self, partition: Partition) -> None:
        """Add `partition` to the table, unless it is there."""
        text = ",".join(f"{key}='{value}'" for key, value in partition)
        self._call(lambda: self._table.create_partition(text, if_not_exists=True), f"add the partition {text}")

    # Reading

    def open_read(
        self, partitions: Sequence[Partition], columns: Sequence[str], keys: Sequence[str]
    ) -> tuple[str, int]:
        """Open a session over rows of `partitions` (none: the whole table); return its name and number of rows."""
        data = [name for name in columns if name not in keys]
        request = api.TableBatchScanRequest(
            split_options=api.SplitOptions.get_default_options(api.SplitOptions.SplitMode.ROW_OFFSET),
            required_partitions=[paths.spec(partition) for partition in partitions],
            required_data_columns=data,
            required_partition_columns=[name for name in columns if name in keys],
        )
        response = self._call(lambda: self._storage.create_read_session(request), "open a read session")
        told = self._wait(lambda: self.get_read(response.session_id), {api.SessionStatus.NORMAL}, response)
        if told.record_count is None or told.record_count < 0:
            raise ValueError(f"{self._path.name}: the read session tells no number of rows ({told.record_count})")
        return told.session_id, told.record_count

    def get_read(self, session: str, *, refresh: bool = False) -> Any:
        """Return what the service tells of a read session; with `refresh` it lives longer for it.

        Raises:
            LostSessionError: the service does not know it.
        """
        request = api.SessionRequest(session, refresh=refresh)
        return self._call(lambda: self._storage.get_read_session(request), "ask for the read session", session)

    def rows(self, session: str, start: int, stop: int) -> list[pa.RecordBatch]:
        """Return rows [start, stop) of a session, all of them, in order.

        Raises:
            LostSessionError: the session has ended.
            ValueError: no access, or no progress in all attempts.
        """
        attempts = self._attempts(f"read rows {start} to {stop}")
        batches: list[pa.RecordBatch] = []
        position = start
        while position < stop:
            try:
                for batch in self._storage.batches(session, position, stop, self._max_batch_rows, self._compression):
                    batches.append(batch)
                    position += batch.num_rows
                    if batch.num_rows:
                        attempts.progress()
                if position < stop:
                    raise retry.ShortStreamError(f"the stream ended after row {position} of [{start}, {stop})")
            except retry.CAUGHT as error:
                self._refuse_lost(error, session)
                attempts.failed(error)
        if position > stop:
            raise ValueError(
                f"{self._path.name}: {position - start} rows came where [{start}, {stop}) was asked for; report "
                "this to MaxCompute"
            )
        return batches

    # Writing

    def open_write(self, partition: Partition) -> tuple[str, int]:
        """Open a session that will replace `partition` or the unpartitioned table; return its name and block limit."""
        request = api.TableBatchWriteRequest(partition_spec=paths.spec(partition), overwrite=True)
        response = self._call(lambda: self._storage.create_write_session(request), "open a write session")
        told = self._wait(lambda: self.get_write(response.session_id), {api.SessionStatus.NORMAL}, response)
        return told.session_id, int(told.max_block_num)

    def get_write(self, session: str) -> Any:
        """Return what the service tells of a write session."""
        request = api.SessionRequest(session)
        return self._call(lambda: self._storage.get_write_session(request), "ask for the write session", session)

    def send_block(self, session: str, block: int, body: pa.Buffer) -> str:
        """Send one block, an Arrow stream, until it is taken; return what the commit needs to know of it."""
        attempts = self._attempts(f"write block {block}")
        for number in itertools.count():
            try:
                return self._storage.send(session, block, number, body)
            except retry.CAUGHT as error:
                self._refuse_lost(error, session)
                attempts.failed(error)
        raise AssertionError

    def commit(self, session: str, messages: Sequence[str]) -> None:
        """Make the blocks that `messages` tell visible, once, even if the answer to it is lost."""
        attempts = self._attempts("commit")
        request, committed = api.SessionRequest(session), api.SessionStatus.COMMITTED
        told = None
        while told is None:
            try:
                told = self._storage.commit_write_session(request, list(messages))
            except retry.CAUGHT as error:
                self._refuse_lost(error, session)
                if retry.is_transient(error) and self.get_write(session).session_status != api.SessionStatus.NORMAL:
                    break
                attempts.failed(error)
        if told is None or told.status != api.Status.OK or told.session_status != committed:
            self._wait(lambda: self.get_write(session), {committed}, None, {api.SessionStatus.COMMITTING})

    def compression(self) -> str | None:
        """Return Arrow's name of how blocks are compressed."""
        return self._compression.to_string()

    def _partition_modified(self, partition: Partition) -> int:
        text = ",".join(f"{key}='{value}'" for key, value in partition)
        try:
            told = self._table.get_partition(text)
            self._call(told.reload, f"look up the partition {text}")
        except errors.NoSuchObject:
            raise ValueError(self._no_partition(partition)) from None
        return int(told.last_data_modified_time.timestamp())

    def _no_partition(self, partition: Partition) -> str:
        there = [paths.spec(one) for one in self.all_partitions()]
        told = f"it has {len(there)}, from {there[0]} to {there[-1]}" if there else "it has none"
        return f"{self._path.name}: no partition {paths.spec(partition)!r}; {told}"

    def _wait(
        self,
        ask: Callable[[], Any],
        wanted: set[api.SessionStatus],
        told: Any,
        passing: set[api.SessionStatus] = frozenset({api.SessionStatus.INIT}),  # pyright: ignore[reportArgumentType]
    ) -> Any:
        """Ask until the session's state is one of `wanted`; any that is not `passing` either is refused."""
        deadline, pause = time.monotonic() + self._wait_seconds, _POLL_SECONDS[0]
        told = ask() if told is None else told
        while told.session_status not in wanted:
            if told.session_status not in passing:
                raise LostSessionError(
                    f"{self._path.name}: the session is {told.session_status}, and will not become "
                    f"{' or '.join(state.value for state in wanted)}; run the stage again"
                )
            if time.monotonic() > deadline:
                raise ValueError(
                    f"{self._path.name}: the session is still {told.session_status} after {self._wait_seconds:g} s; "
                    "run the stage again, or allow more with wait_seconds"
                )
            time.sleep(pause)
            pause = min(pause * 2, _POLL_SECONDS[1])
            told = ask()
        return told

    def _attempts(self, what: str) -> retry.Attempts:
        return retry.Attempts(f"{self._path.name}: {what}", self._retry, self._access.account)

    def _call(self, work: Callable[[], T], what: str, session: str | None = None) -> T:
        attempts = self._attempts(what)
        while True:
            try:
                return work()
            except retry.CAUGHT as error:
                if session is not None:
                    self._refuse_lost(error, session)
                attempts.failed(error)
            except ValueError as error:
                # An enumeration of pyodps says so of a state that it does not know.
                if "SessionStatus" not in str(error):
                    raise
                raise LostSessionError(f"{self._path.name}: {what}: the service answered: {error}") from None

    def _refuse_lost(self, error: Exception, session: str) -> None:
        is_other = isinstance(error, (errors.NoSuchTable, errors.NoSuchProject, errors.NoSuchPartition))
        if isinstance(error, (errors.NoSuchObject, errors.TableModified)) and not is_other:
            raise LostSessionError(
                f"{self._path.name}: MaxCompute has ended the session {session} ({retry.describe(error)})"
            ) from None


class _Storage(api.StorageApiArrowClient):
    """pyodps' client without its own retries and buffers."""

    @property
    def tunnel_rest(self) -> RestClient:
        return super().tunnel_rest.with_retry_enabled(retry_enabled=False)

    def batches(
        self, session: str, start: int, stop: int, max_batch_rows: int, compression: api.Compression
    ) -> Iterator[pa.RecordBatch]:
        request = api.ReadRowsRequest(
            session_id=session,
            row_index=start,
            row_count=stop - start,
            max_batch_rows=max_batch_rows,
            compression=compression,
        )
        response = self.read_rows_stream(request)._raw_reader  # noqa: SLF001 - its own reader copies every 64 KB
        try:
            with pa.ipc.open_stream(response.raw) as stream:
                yield from stream
            # The end of HTTP, too, so that the connection is used again.
            response.raw.read(1)
        finally:
            response.close()

    def send(self, session: str, block: int, attempt: int, body: pa.Buffer) -> str:
        params = {"attempt_number": str(attempt), "block_number": str(block)}
        if self._quota_name:
            params["quotaName"] = self._quota_name
        headers = self._fill_common_headers({"Content-Type": "application/octet-stream"})
        url = self._get_resource("sessions", session, "data")
        answer: Any = self.tunnel_rest.post(url, data=_Chunks(body), params=params, headers=headers)
        message = answer.json().get("CommitMessage") if answer.status_code == 200 else None
        if not isinstance(message, str):
            raise errors.InternalServerError(
                f"block {block} was answered with {answer.status_code} and no commit message",
                status_code=answer.status_code,
            )
        return message


class _Chunks:
    """A body that is sent in chunks, and can be sent again."""

    def __init__(self, body: pa.Buffer) -> None:
        self._body = memoryview(body)

    def __iter__(self) -> Iterator[memoryview]:
        for start in range(0, len(self._body), _CHUNK_BYTES):
            yield self._body[start : start + _CHUNK_BYTES]


def _url(access: Access) -> str | None:
    tunnel = access.tunnel_endpoint
    if tunnel is None or "://" in tunnel:
        return tunnel
    return f"{access.endpoint.partition('://')[0]}://{tunnel}"
