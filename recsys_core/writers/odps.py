"""MaxCompute tables, `odps://`: a table, or one partition of it, replaced as a whole by one session's blocks."""

import base64
from collections.abc import Sequence
from typing import Any, Literal

import pyarrow as pa
from pydantic import Field

from recsys_core.artifacts import ComponentConfig
from recsys_core.odps import client, credentials, path, types
from recsys_core.odps.interface import Choice
from recsys_core.odps.path import TablePath
from recsys_core.odps.retry import Config as Retry
from recsys_core.writers import base


class Config(ComponentConfig):
    """`path` names one table, and one whole partition of it where it is partitioned."""

    kind: Literal["odps"] = "odps"
    path: str
    lifecycle_days: int | None = Field(default=None, ge=1, description="of a table that is made")
    compression: client.Compression = "LZ4_FRAME"
    quota_name: str | None = None
    interface: Choice = Field(
        default="auto", description="`auto` takes the Storage API, or the Arrow tunnel where that is not open"
    )
    block_bytes: int = Field(
        default=64 << 20, ge=1, description="of Arrow data in one block, which is sent again whole"
    )
    max_parts: int = Field(default=64, ge=1, description="ranks that may write; block numbers are dealt in turns")
    wait_seconds: float = Field(default=300.0, gt=0, description="until a session has to be ready or committed")
    retry: Retry = Retry()


class Table(base.Table):
    """Replaces a table or partition; readers see the old rows until `commit`."""

    def __init__(self, config: Config) -> None:
        """Check `config.path`.

        Raises:
            ValueError: it does not name one table and at most one partition.
        """
        tables = path.parse(config.path)
        if len(tables) > 1 or len(tables[0].partitions) > 1:
            raise ValueError(f"{config.path}: one table and one partition are written at a time; name one")
        self.config, self._path = config, tables[0]
        self._partition = next(iter(tables[0].partitions), ())

    def begin(self, schema: pa.Schema) -> dict[str, Any]:
        """See `base.Table.begin`; makes the table and the partition where they are missing."""
        one = self._client()
        wanted = _plain(schema, self._path)
        keys = [key for key, _ in self._partition]
        if both := [name for name in wanted.names if name in keys]:
            raise ValueError(f"{self._path}: {both[0]!r} is a column and a partition key; leave the column out")
        info = one.info()
        if info is None:
            one.create_table(wanted, keys, self.config.lifecycle_days)
            info = one.info()
            assert info is not None
        self._require(info, wanted)
        if keys:
            one.create_partition(self._partition)
        session, max_blocks = one.open_write(self._partition)
        stored = pa.schema([wanted.field(name) for name in info.schema.names if name not in info.partition_keys])
        return {
            "session": session,
            "max_blocks": max_blocks,
            "schema": base64.b64encode(stored.serialize().to_pybytes()).decode(),
        }

    def part(self, state: dict[str, Any], number: int) -> "Writer":
        """See `base.Table.part`."""
        if number >= self.config.max_parts:
            raise ValueError(f"{self._path}: part {number} where max_parts is {self.config.max_parts}; allow more")
        return Writer(self._client(), self.config, state, number)

    def commit(self, state: dict[str, Any], receipts: Sequence[base.Receipt]) -> int:
        """See `base.Table.commit`; a second commit of the same session changes nothing."""
        one = self._client(client.interface_of(state["session"]))
        one.commit(state["session"], [message for receipt in receipts for message in receipt.written])
        num_rows = sum(receipt.num_rows for receipt in receipts)
        schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(state["schema"])))
        keys = [key for key, _ in self._partition]
        _, found = one.open_read([self._partition] if keys else [], schema.names[:1], keys)
        if found != num_rows:
            raise ValueError(
                f"{self._path}: holds {found} rows after {num_rows} were committed; does something else write to it? "
                "run the stage again"
            )
        return num_rows

    def abandon(self, state: dict[str, Any]) -> None:
        """See `base.Table.abandon`; a session that is not committed ends by itself, and no reader sees its blocks."""

    def _client(self, by: Choice | None = None) -> client.Client:
        return client.Client(
            credentials.find(),
            self._path,
            quota_name=self.config.quota_name,
            compression=self.config.compression,
            wait_seconds=self.config.wait_seconds,
            by=by or self.config.interface,
            config=self.config.retry,
        )

    def _require(self, info: client.TableInfo, wanted: pa.Schema) -> None:
        """Refuse a table whose columns or partition keys are not those of the rows to come."""
        path.require_keys(self._path, info.partition_keys)
        if len(self._partition) != len(info.partition_keys):
            raise ValueError(
                f"{self._path}: the table is partitioned by {', '.join(info.partition_keys)}; name one whole partition"
            )
        own = [field for field in info.schema if field.name not in info.partition_keys]
        there, ours = ({field.name: field.type for field in fields} for fields in (own, wanted))
        for name in dict.fromkeys([*there, *ours]):
            if there.get(name) != ours.get(name):
                raise ValueError(
                    f"{self._path.name}: column {name!r} is {there.get(name, 'absent')} in the table and "
                    f"{ours.get(name, 'absent')} in the rows to write; write to another table, or drop this one"
                )


class Writer(base.Writer):
    """Collects rows until they fill a block, and sends it; what is in memory is one block."""

    def __init__(self, one: client.Client, config: Config, state: dict[str, Any], part: int) -> None:
        """Write part number `part` of the session that `state` names."""
        self._client, self._config, self._state, self._part = one, config, state, part
        self._schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(state["schema"])))
        self._held: list[pa.Table] = []
        self._held_bytes = 0
        self._messages: list[str] = []
        self._receipt: base.Receipt | None = None

    def write(self, table: pa.Table) -> None:
        """See `base.Writer.write`."""
        rows = table.select(self._schema.names).cast(self._schema)
        rows_each = max(1, int(self._config.block_bytes * rows.num_rows / max(rows.nbytes, 1)))
        for start in range(0, rows.num_rows, rows_each):
            piece = rows.slice(start, rows_each)
            if self._held and self._held_bytes + piece.nbytes > self._config.block_bytes:
                self._send()
            self._held.append(piece)
            self._held_bytes += piece.nbytes
        self.num_rows += rows.num_rows

    def close(self) -> base.Receipt:
        """See `base.Writer.close`."""
        if self._receipt is None:
            # The first part sends a block even without rows, so that a commit is never one of nothing.
            if self._held or (self._part == 0 and not self._messages):
                self._send()
            self._receipt = base.Receipt(part=self._part, num_rows=self.num_rows, written=tuple(self._messages))
        return self._receipt

    def _send(self) -> None:
        block = len(self._messages) * self._config.max_parts + self._part
        if block >= self._state["max_blocks"]:
            raise ValueError(
                f"{self._config.path}: the session takes {self._state['max_blocks']} blocks, and this would be number "
                f"{block}; make block_bytes larger or max_parts smaller"
            )
        sink = pa.BufferOutputStream()
        options = pa.ipc.IpcWriteOptions(compression=self._client.compression())
        with pa.ipc.new_stream(sink, self._schema, options=options) as stream:
            for table in self._held:
                stream.write_table(table)
        self._messages.append(self._client.send_block(self._state["session"], block, sink.getvalue()))
        self._held, self._held_bytes = [], 0


def _plain(schema: pa.Schema, at: TablePath) -> pa.Schema:
    """Return `schema` as the table will have it."""
    fields = []
    for field in schema:
        try:
            fields.append(pa.field(field.name, types.plain(field.type)))
        except ValueError as error:
            raise ValueError(f"{at.name}: column {field.name!r}: {error}") from None
    return pa.schema(fields)
