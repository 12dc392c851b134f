"""MaxCompute tables, `odps://`; a block is a stretch of rows of one session.

One rank opens the sessions, and the others read the same rows by their numbers. Sessions are kept alive in the
background. Partition keys are text columns, after the table's own.
"""

import hashlib
import logging
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from pydantic import Field

from recsys_core import uri
from recsys_core.artifacts import ComponentConfig, digest_of
from recsys_core.odps import client, credentials, path
from recsys_core.odps.interface import Choice
from recsys_core.odps.path import TablePath
from recsys_core.odps.retry import Config as Retry
from recsys_core.readers import _files, base

_LOG = logging.getLogger(__name__)


class Config(ComponentConfig):
    """`path` is `odps://PROJECT/tables/TABLE`, with partitions and further tables as in docs/maxcompute.md."""

    kind: Literal["odps"] = "odps"
    path: str
    columns: tuple[str, ...] | None = Field(
        default=None, min_length=1, description="those that the sessions carry at all; by default every column"
    )
    rows_per_block: int = Field(default=65_536, ge=1, description="rows that one request asks for")
    max_batch_rows: int = Field(default=16_384, ge=1, le=20_000, description="rows that the service sends at a time")
    compression: client.Compression = "LZ4_FRAME"
    quota_name: str | None = None
    interface: Choice = Field(
        default="auto", description="`auto` takes the Storage API, or the Arrow tunnel where that is not open"
    )
    wait_seconds: float = Field(default=300.0, gt=0, description="until a session has to be ready")
    refresh_seconds: float = Field(default=600.0, gt=0, description="between two signs of life to the sessions")
    on_lost_session: Literal["fail", "reopen"] = Field(
        default="fail",
        description="`reopen` opens another where the table is unchanged; MaxCompute does not promise the same order",
    )
    retry: Retry = Retry()


class _Opened(NamedTuple):
    """One table's session and what it was opened on."""

    path: TablePath
    session: str
    num_rows: int
    fingerprint: str


class Reader(base.Reader):
    """Reads tables by row numbers; several threads may, each over a connection of its own."""

    def __init__(self, config: Config, state: dict[str, Any] | None = None) -> None:
        """Open the tables, or take up the sessions that `state` names.

        Raises:
            ValueError: a bad path, no access, no such table, partition or column, or tables that differ in their
                columns; each is named.
        """
        self.config = config
        access = credentials.find()
        self._clients = [_client(config, access, at) for at in path.parse(config.path)]
        if state is None:
            found = [_open(config, one, at) for one, at in zip(self._clients, path.parse(config.path), strict=True)]
            # A table's columns are declared, whether it has rows or not.
            self.schema = _files.same_schema([(opened.path.name, schema, 1) for opened, schema in found])
            self._opened = [opened for opened, _ in found]
        else:
            self.schema = _files.schema_from(state["schema"])
            self._opened = [
                _Opened(at, *session) for at, session in zip(path.parse(config.path), state["sessions"], strict=True)
            ]
        self.fingerprint = {opened.path.name: opened.fingerprint for opened in self._opened}
        self._blocks = [
            (number, start, min(start + config.rows_per_block, opened.num_rows))
            for number, opened in enumerate(self._opened)
            for start in range(0, opened.num_rows, config.rows_per_block)
        ]
        self.block_rows = np.array([stop - start for _, start, stop in self._blocks], dtype=np.int64)
        self._reopening = threading.Lock()
        self._closed = threading.Event()
        weakref.finalize(self, self._closed.set)
        self._keep_alive()

    def read(self, block: int, columns: Sequence[str]) -> pa.Table:
        """See `base.Reader.read`."""
        number, start, stop = self._blocks[block]
        session = self._opened[number].session
        try:
            batches = self._clients[number].rows(session, start, stop)
        except client.LostSessionError as error:
            session = self._reopened(number, session, error)
            batches = self._clients[number].rows(session, start, stop)
        table = pa.Table.from_batches(batches).select(list(columns))
        # A service may send times in another unit or zone; a value that does not fit is refused.
        return table.cast(pa.schema([self.schema.field(name) for name in columns]))

    def place(self, block: int) -> base.Place:
        """See `base.Reader.place`."""
        number, start, _ = self._blocks[block]
        return base.Place(self._opened[number].path.name, start)

    def state(self) -> dict[str, Any]:
        """See `base.Reader.state`."""
        return {
            "schema": _files.schema_to_text(self.schema),
            "sessions": [list(opened[1:]) for opened in self._opened],
        }

    def refresh(self) -> None:
        """Extend the life of the sessions, as they are still read.

        Raises:
            ValueError: the service does not answer, or does not know them any more.
        """
        for opened, one in zip(self._opened, self._clients, strict=True):
            one.get_read(opened.session, refresh=True)

    def __reduce__(self) -> tuple[Any, ...]:
        # A started worker builds clients of its own: neither keys nor connections travel.
        return Reader, (self.config, self.state())

    def _reopened(self, number: int, session: str, lost: client.LostSessionError) -> str:
        """Return the session that takes the place of a lost one.

        Raises:
            ValueError: that is not allowed, or the table is not what it was.
        """
        choices = "run the stage from its start, which opens a new session"
        if self.config.on_lost_session == "fail":
            raise ValueError(
                f"{lost}; {choices}, or set on_lost_session: reopen to go on in a new session as long as the table is "
                "unchanged, if it may be that its rows come in another order"
            ) from lost
        with self._reopening:
            held = self._opened[number]
            if held.session != session:
                return held.session
            opened, schema = _open(self.config, self._clients[number], held.path)
            if opened.fingerprint != held.fingerprint or schema != self.schema:
                raise ValueError(
                    f"{lost}; the table has changed since it was opened ({held.fingerprint} then, "
                    f"{opened.fingerprint} now), so rows cannot be identified by their numbers; {choices}"
                ) from lost
            _LOG.warning("%s; reading goes on in the session %s", lost, opened.session)
            self._opened[number] = opened
            return opened.session

    def _keep_alive(self) -> None:
        held, closed, pause = weakref.ref(self), self._closed, self.config.refresh_seconds

        def work() -> None:
            while not closed.wait(pause):
                reader = held()
                if reader is None:
                    return
                try:
                    reader.refresh()
                except client.LostSessionError as error:
                    # The thread that reads meets the error, too, and decides; a session that was opened since is young.
                    _LOG.warning("%s", error)
                    return
                except ValueError as error:
                    _LOG.warning("%s", error)
                del reader

        threading.Thread(target=work, name="odps-refresh", daemon=True).start()


def parts(source: str, key: str, wanted: Callable[[str], bool]) -> dict[str, base.Part] | None:
    """See `readers.parts`; costs one request per table, and one per partition whose value is wanted."""
    config, access = Config(path=source), credentials.find()
    found: dict[str, list[tuple[TablePath, dict[path.Partition, int]]]] = {}
    for at in path.parse(source):
        one = _client(config, access, at)
        info = _looked_up(one, at)
        if key not in info.partition_keys:
            return None
        named = at.partitions or ((),)
        chosen = [
            partition
            for partition in one.all_partitions()
            if wanted(dict(partition)[key]) and any(partition[: len(outer)] == outer for outer in named)
        ]
        by_value: dict[str, dict[path.Partition, int]] = {}
        for partition, modified in one.partitions(chosen, info.partition_keys).items():
            by_value.setdefault(dict(partition)[key], {})[partition] = modified
        for value, own in by_value.items():
            found.setdefault(value, []).append((at._replace(partitions=tuple(own)), {(("", info.id),): 0} | own))
    return {
        value: base.Part(",".join(str(at) for at, _ in tables), digest_of([[str(own)] for _, own in tables]))
        for value, tables in found.items()
    }


def _client(config: Config, access: credentials.Access, at: TablePath) -> client.Client:
    return client.Client(
        access,
        at,
        quota_name=config.quota_name,
        compression=config.compression,
        max_batch_rows=config.max_batch_rows,
        wait_seconds=config.wait_seconds,
        by=config.interface,
        config=config.retry,
    )


def _open(config: Config, one: client.Client, at: TablePath) -> tuple[_Opened, pa.Schema]:
    info = _looked_up(one, at)
    names = list(config.columns or info.schema.names)
    for name in names:
        if name not in info.schema.names:
            raise ValueError(
                f"{at.name}: no column {name!r}{uri.nearest(name, info.schema.names)}; it has "
                f"{', '.join(info.schema.names)}"
            )
    schema = pa.schema([info.schema.field(name) for name in names])
    partitions = one.partitions(at.partitions, info.partition_keys)
    if info.partition_keys and not partitions:
        # All of them: one request covers every change; asked one by one, partitions may be too many.
        partitions = dict.fromkeys(one.all_partitions(), info.modified)
        if not partitions:
            raise ValueError(f"{at.name}: has no partitions yet; write one, or name a table that has rows")
    session, num_rows = one.open_read(list(partitions), _carried(names, info), info.partition_keys)
    changes = ";".join(f"{path.spec(partition)} {at}" for partition, at in partitions.items()) or str(info.modified)
    digest = hashlib.sha256(changes.encode()).hexdigest()[:16]
    return _Opened(at, session, num_rows, f"table {info.id}, {num_rows} rows, changes {digest}"), schema


def _looked_up(one: client.Client, at: TablePath) -> client.TableInfo:
    info = one.info()
    if info is None:
        raise ValueError(f"{at.name}: no such table; check its name, or the project and schema it is in")
    path.require_keys(at, info.partition_keys)
    return info


def _carried(names: list[str], info: client.TableInfo) -> list[str]:
    # No data columns at all would mean all of them.
    if any(name not in info.partition_keys for name in names):
        return names
    return [*names, info.schema.names[0]]
