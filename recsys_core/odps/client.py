"""What the pipeline asks of MaxCompute: its tables' metadata, and rows in and out by one of two interfaces.

pyodps speaks the wire; that every row arrives once is seen to here: rows are counted, streams that break are taken up
where they broke, blocks are sent again whole, and a commit whose answer was lost is asked about before it is repeated.
"""

import itertools
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, NamedTuple, TypeVar

import pyarrow as pa
from odps import ODPS, errors, options
from odps.rest import RestClient

from recsys_core.odps import interface, retry, types
from recsys_core.odps import path as paths
from recsys_core.odps.credentials import Access
from recsys_core.odps.interface import COMMITTED, COMMITTING, PENDING, READY, Interface, SessionState
from recsys_core.odps.path import Partition, TablePath
from recsys_core.odps.storage import Storage
from recsys_core.odps.tunnel import PREFIX, Tunnel

T = TypeVar("T")
Compression = Literal["none", "LZ4_FRAME", "ZSTD"]
_LOG = logging.getLogger(__name__)
_COMPRESSIONS = {"none": None, "LZ4_FRAME": "lz4", "ZSTD": "zstd"}
_POLL_SECONDS = (0.05, 5.0)
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
    """What a table is: its columns with the partition keys last, as text, and what changes when the table does."""

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
        by: interface.Choice = "auto",
        config: retry.Config | None = None,
    ) -> None:
        """Ask just whether projects have schemas here.

        Raises:
            ValueError: the service does not answer, or does not know the keys.
        """
        self._path, self._access, self._retry = path, access, config or retry.Config()
        self._compression = _COMPRESSIONS[compression]
        self._wait_seconds, self._by = wait_seconds, by
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
        self._storage = Storage(
            self._odps,
            self._table,
            url=_url(access),
            quota_name=quota_name,
            compression=self._compression,
            max_batch_rows=max_batch_rows,
        )
        self._tunnel = Tunnel(self._odps, self._table, url=_url(access), quota_name=quota_name)

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
        schema = self._table.table_schema
        keys = tuple(column.name for column in schema.partitions)
        fields = []
        for column in schema.simple_columns:
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
        state = self._opened(lambda way: way.open_read(partitions, columns, keys), "read")
        if state.number is None:
            raise ValueError(f"{self._path.name}: the read session has no number of rows; run the stage again")
        return state.session, state.number

    def get_read(self, session: str, *, refresh: bool = False) -> SessionState:
        """Return the state of a read session; with `refresh` the session lives longer.

        Raises:
            LostSessionError: the service does not know it.
        """
        way = self._way(session)
        return self._call(lambda: way.read_state(session, refresh=refresh), "ask for the read session", session)

    def rows(self, session: str, start: int, stop: int) -> list[pa.RecordBatch]:
        """Return rows [start, stop) of a session, all of them, in order.

        Raises:
            LostSessionError: the session has ended.
            ValueError: no access, or no progress in all attempts.
        """
        way, attempts = self._way(session), self._attempts(f"read rows {start} to {stop}")
        batches: list[pa.RecordBatch] = []
        position = start
        while position < stop:
            try:
                for batch in way.batches(session, position, stop):
                    batches.append(batch)
                    position += batch.num_rows
                    if batch.num_rows:
                        attempts.progress()
                if position < stop:
                    raise retry.ShortStreamError(f"the stream ended after row {position} of [{start}, {stop})")
            except retry.CAUGHT as error:
                self._refuse_lost(error, session, f"read rows {start} to {stop}, of which {position - start} came")
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
        state = self._opened(lambda way: way.open_write(partition), "write")
        return state.session, state.number or 0

    def get_write(self, session: str) -> SessionState:
        """Return the state of a write session."""
        return self._call(lambda: self._way(session).write_state(session), "ask for the write session", session)

    def send_block(self, session: str, block: int, body: pa.Buffer) -> str:
        """Send one block, an Arrow stream, until it is taken; return what the commit needs to know of it."""
        attempts = self._attempts(f"write block {block}")
        for number in itertools.count():
            try:
                return self._way(session).send(session, block, number, body)
            except retry.CAUGHT as error:
                self._refuse_lost(error, session, f"write block {block}")
                attempts.failed(error)
        raise AssertionError

    def commit(self, session: str, messages: Sequence[str]) -> None:
        """Make the blocks of the commit messages `messages` visible, once, even if the answer to it is lost."""
        attempts = self._attempts("commit")
        state = None
        while state is None:
            try:
                state = self._way(session).commit(session, messages)
            except retry.CAUGHT as error:
                self._refuse_lost(error, session, "commit")
                if retry.is_transient(error) and self.get_write(session).state != READY:
                    break
                attempts.failed(error)
        if state is None or state.state != COMMITTED:
            self._wait(lambda: self.get_write(session), COMMITTED, None, COMMITTING)

    def compression(self) -> str | None:
        """Return Arrow's name of how blocks are compressed."""
        return self._compression

    def _partition_modified(self, partition: Partition) -> int:
        text = ",".join(f"{key}='{value}'" for key, value in partition)
        try:
            found = self._table.get_partition(text)
            self._call(found.reload, f"look up the partition {text}")
        except errors.NoSuchObject:
            raise ValueError(self._no_partition(partition)) from None
        return int(found.last_data_modified_time.timestamp())

    def _no_partition(self, partition: Partition) -> str:
        there = [paths.spec(one) for one in self.all_partitions()]
        known = f"it has {len(there)}, from {there[0]} to {there[-1]}" if there else "it has none"
        return f"{self._path.name}: no partition {paths.spec(partition)!r}; {known}"

    def _way(self, session: str) -> Interface:
        return self._tunnel if interface_of(session) == "tunnel" else self._storage

    def _opened(self, work: Callable[[Interface], SessionState], kind: Literal["read", "write"]) -> SessionState:
        """Open a session by the interface that is asked for; where none is, by the one that the project has open."""
        if self._by == "tunnel":
            return self._ready(self._tunnel, work, kind)
        try:
            return self._ready(self._storage, work, kind)
        except retry.ClosedError as error:
            if self._by == "storage":
                raise
            closed = error
        try:
            state = self._ready(self._tunnel, work, kind)
        except ValueError as error:
            raise ValueError(f"{closed}; nor is {self._tunnel.name} open: {error}") from error
        _LOG.warning("rows of %s go by %s: %s", self._path.name, self._tunnel.name, closed)
        self._by = "tunnel"
        return state

    def _ready(
        self, way: Interface, work: Callable[[Interface], SessionState], kind: Literal["read", "write"]
    ) -> SessionState:
        what = f"open a {kind} session of {way.name}"
        try:
            state = self._call(lambda: work(way), what)
        except errors.NoSuchObject as error:
            if _is_missing(error):
                raise ValueError(self._dropped(what, error)) from error
            raise retry.ClosedError(f"{self._path.name}: {what}: it is not there ({retry.describe(error)})") from error
        ask = self.get_read if kind == "read" else self.get_write
        return self._wait(lambda: ask(state.session), READY, state)

    def _wait(
        self, ask: Callable[[], SessionState], wanted: str, state: SessionState | None, passing: str = PENDING
    ) -> SessionState:
        """Ask until the session's state is `wanted`; any that is not `passing` either is refused."""
        deadline, pause = time.monotonic() + self._wait_seconds, _POLL_SECONDS[0]
        state = ask() if state is None else state
        while state.state != wanted:
            if state.state != passing:
                raise LostSessionError(
                    f"{self._path.name}: the session is {state.state}, and will not become {wanted}; "
                    "run the stage again"
                )
            if time.monotonic() > deadline:
                raise ValueError(
                    f"{self._path.name}: the session is still {state.state} after {self._wait_seconds:g} s; "
                    "run the stage again, or allow more with wait_seconds"
                )
            time.sleep(pause)
            pause = min(pause * 2, _POLL_SECONDS[1])
            state = ask()
        return state

    def _attempts(self, what: str) -> retry.Attempts:
        return retry.Attempts(f"{self._path.name}: {what}", self._retry, self._access.account)

    def _call(self, work: Callable[[], T], what: str, session: str | None = None) -> T:
        attempts = self._attempts(what)
        while True:
            try:
                return work()
            except retry.CAUGHT as error:
                if session is not None:
                    self._refuse_lost(error, session, what)
                attempts.failed(error)
            except ValueError as error:
                # An enumeration of pyodps says so of a state that it does not know.
                if "SessionStatus" not in str(error):
                    raise
                raise LostSessionError(f"{self._path.name}: {what}: the service answered: {error}") from None

    def _dropped(self, what: str, error: Exception) -> str:
        return (
            f"{self._path.name}: {what}: the table, or a partition of it, is not there any more "
            f"({retry.describe(error)}); write it again, or name another, and run the stage again"
        )

    def _refuse_lost(self, error: Exception, session: str, what: str) -> None:
        if _is_missing(error):
            raise ValueError(self._dropped(what, error)) from error
        gone = isinstance(error, (errors.NoSuchObject, errors.TableModified)) or (
            isinstance(error, errors.ODPSError) and error.status_code == 404
        )
        if gone:
            raise LostSessionError(
                f"{self._path.name}: {what}: MaxCompute has ended the session {session[:80]} ({retry.describe(error)})"
            ) from None


def interface_of(session: str) -> interface.Choice:
    """Return the interface that a session was opened by."""
    return "tunnel" if session.startswith(PREFIX) else "storage"


def _is_missing(error: Exception) -> bool:
    """Whether it is not the session but what it was opened on that is not there (any more)."""
    return isinstance(error, (errors.NoSuchTable, errors.NoSuchProject, errors.NoSuchPartition))


def _url(access: Access) -> str | None:
    tunnel = access.tunnel_endpoint
    if tunnel is None or "://" in tunnel:
        return tunnel
    return f"{access.endpoint.partition('://')[0]}://{tunnel}"
