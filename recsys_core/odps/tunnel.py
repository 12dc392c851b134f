"""The Arrow tunnel, for projects that the Storage API is not open to: a session per partition, framed Arrow messages.

A read session's name here is the JSON of all of them, `tunnel:{"columns": …, "parts": [[partition, id, rows], …]}`, so
that rows of many partitions have one numbering, and another process needs to ask for nothing.

    framing   u32 chunk size | chunk, u32 CRC-32C of it | … | rest shorter than a chunk, u32 CRC-32C of all chunks
    payload   Arrow record batches one after another, without schema and end
"""

import io
import json
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
from odps import ODPS, errors
from odps.models import Table
from odps.tunnel import TableTunnel
from odps.tunnel.base import TUNNEL_VERSION
from odps.tunnel.checksum import Checksum
from odps.tunnel.io.reader import ArrowStreamReader
from odps.tunnel.pb.errors import DecodeError

from recsys_core.odps import interface, types
from recsys_core.odps import path as paths
from recsys_core.odps.interface import SessionState
from recsys_core.odps.path import Partition

PREFIX = "tunnel:"
FRAME_BYTES = 1 << 16
MAX_BLOCKS = 20_000
"""How many blocks the service's documents allow a session."""
_HEADERS = {"odps-tunnel-date-transform": "v1", "x-odps-tunnel-version": str(TUNNEL_VERSION)}
_STATES = {
    "NORMAL": interface.READY,
    "INITIATING": interface.PENDING,
    "CLOSING": interface.COMMITTING,
    "CLOSED": interface.COMMITTED,
}


class Tunnel(interface.Interface):
    """See `interface.Interface`."""

    name = "the Arrow tunnel"

    def __init__(self, odps: ODPS, table: Table, *, url: str | None, quota_name: str | None) -> None:
        """`url` is the tunnel's address, where that is configured."""
        self._tunnel = TableTunnel(odps, endpoint=url, quota_name=quota_name)
        self._table, self._quota_name = table, quota_name

    def open_read(self, partitions: Sequence[Partition], columns: Sequence[str], keys: Sequence[str]) -> SessionState:
        """See `interface.Interface.open_read`."""
        schema: Any = self._table.table_schema
        kinds = {column.name: str(column.type) for column in schema.simple_columns}
        # Without data columns the service would send all of them.
        data = [name for name in kinds if name in columns and name not in keys] or list(kinds)[:1]
        parts, states = [], []
        for partition in partitions or [()]:
            answer = self._ask("post", {"downloads": "", "asyncmode": "true"}, partition)
            parts.append([list(map(list, partition)), answer["DownloadID"], _rows(answer)])
            states.append(answer["Status"])
        return _whole(
            {"columns": {name: kinds[name] for name in data}, "wanted": list(columns), "parts": parts}, states
        )

    def read_state(self, session: str, *, refresh: bool = False) -> SessionState:  # noqa: ARG002 - lives a day, and no longer
        """See `interface.Interface.read_state`."""
        known = _read(session)
        states = []
        for part in known["parts"]:
            answer = self._ask("get", {"downloadid": part[1]}, _partition(part))
            part[2] = _rows(answer)
            states.append(answer["Status"])
        return _whole(known, states)

    def batches(self, session: str, start: int, stop: int) -> Iterator[pa.RecordBatch]:
        """See `interface.Interface.batches`."""
        known, low = _read(session), 0
        for part in known["parts"]:
            high = low + part[2]
            first, last = max(start, low), min(stop, high)
            if first < last:
                num_rows = 0
                for batch in self._part(known, part, first - low, last - first):
                    num_rows += batch.num_rows
                    yield batch
                if num_rows != last - first:
                    return
            low = high

    def open_write(self, partition: Partition) -> SessionState:
        """See `interface.Interface.open_write`."""
        answer = self._ask("post", {"uploads": "1", "overwrite": "true"}, partition)
        return self._write_state(PREFIX + json.dumps([list(map(list, partition)), answer["UploadID"]]), answer)

    def write_state(self, session: str) -> SessionState:
        """See `interface.Interface.write_state`."""
        partition, upload = self._upload(session)
        return self._write_state(session, self._ask("get", {"uploadid": upload}, partition))

    def send(self, session: str, block: int, attempt: int, body: pa.Buffer) -> str:  # noqa: ARG002 - a block replaces itself
        """See `interface.Interface.send`."""
        partition, upload = self._upload(session)
        with pa.ipc.open_stream(body) as stream:
            framed = b"".join(frame(batch.serialize() for batch in stream))
        self._ask(
            "put",
            {"uploadid": upload, "blockid": str(block), "arrow": ""},
            partition,
            data=interface.Chunks(framed),
            headers={"Transfer-Encoding": "chunked", "Content-Type": "application/octet-stream"},
        )
        return str(block)

    def commit(self, session: str, messages: Sequence[str]) -> SessionState:
        """See `interface.Interface.commit`; the service takes every block there is, so these are compared first."""
        partition, upload = self._upload(session)
        answer = self._ask("get", {"uploadid": upload}, partition)
        there = {int(block["BlockID"]) for block in answer["UploadedBlockList"] or ()}
        state = self._write_state(session, answer)
        if state.state != interface.READY:
            return state
        if there != set(map(int, messages)):
            raise ValueError(
                f"the session has the blocks {sorted(there)} where {sorted(map(int, messages))} were written; run the "
                "stage again"
            )
        return self._write_state(session, self._ask("post", {"uploadid": upload}, partition))

    def _part(self, known: dict[str, Any], part: list[Any], start: int, count: int) -> Iterator[pa.RecordBatch]:
        """Yield rows of one partition, its keys appended."""
        partition = _partition(part)
        schema = pa.schema([(name, types.to_arrow(kind)) for name, kind in known["columns"].items()])
        params = {
            "data": "",
            "arrow": "",
            "downloadid": part[1],
            "rowrange": f"({start},{count})",
            "columns": ",".join(schema.names),
        }
        response = self._request("get", params, partition, stream=True)
        try:
            stream: Any = ArrowStreamReader(response.raw, schema)
            with pa.ipc.open_stream(stream) as batches:
                for batch in batches:
                    values = dict(zip(schema.names, batch.columns, strict=True))
                    for key, value in partition:
                        values[key] = pa.repeat(pa.scalar(value), batch.num_rows)
                    yield pa.record_batch({name: values[name] for name in known["wanted"]})
        except DecodeError as error:
            raise errors.StreamTruncatedException(f"the stream ends before it begins ({error})") from None
        finally:
            response.close()

    def _ask(self, verb: str, params: dict[str, str], partition: Partition, **sent: Any) -> Any:
        answer = self._request(verb, params, partition, **sent)
        return answer.json() if verb != "put" else None

    def _request(self, verb: str, params: dict[str, str], partition: Partition, **sent: Any) -> Any:
        rest = self._tunnel.tunnel_rest
        if partition:
            params = params | {"partition": paths.spec(partition, ",")}
        if self._quota_name:
            params = params | {"quotaName": self._quota_name}
        table = self._tunnel._get_tunnel_table(self._table)  # noqa: SLF001 - it knows how projects with schemas are asked
        headers = _HEADERS | sent.pop("headers", {})
        answer = getattr(rest, verb)(table.table_resource(), params=params, headers=headers, **sent)
        if not rest.is_ok(answer):
            raise errors.InternalServerError(answer.text[:200], status_code=answer.status_code)
        return answer

    def _upload(self, session: str) -> tuple[Partition, str]:
        part = json.loads(session.removeprefix(PREFIX))
        return _partition(part), part[1]

    @staticmethod
    def _write_state(session: str, answer: dict[str, Any]) -> SessionState:
        return SessionState(session, _STATES.get(answer["Status"]) or str(answer["Status"]), MAX_BLOCKS)


def frame(messages: Iterator[pa.Buffer]) -> Iterator[bytes]:
    """Yield `messages` as the tunnel frames them."""
    yield FRAME_BYTES.to_bytes(4, "big")
    whole, held = Checksum(), io.BytesIO()
    for message in messages:
        held.write(message)
        if held.tell() < FRAME_BYTES:
            continue
        content = held.getvalue()
        end = len(content) - len(content) % FRAME_BYTES
        for at in range(0, end, FRAME_BYTES):
            chunk, own = content[at : at + FRAME_BYTES], Checksum()
            own.update(chunk)
            whole.update(chunk)
            yield chunk + _u32(own)
        held = io.BytesIO()
        held.write(content[end:])
    rest = held.getvalue()
    whole.update(rest)
    yield rest + _u32(whole)


def _u32(checksum: Checksum) -> bytes:
    value: Any = checksum.getvalue()
    return int(value).to_bytes(4, "big")


def _read(session: str) -> dict[str, Any]:
    return json.loads(session.removeprefix(PREFIX))


def _partition(part: list[Any]) -> Partition:
    return tuple((key, value) for key, value in part[0])


def _rows(answer: dict[str, Any]) -> int:
    rows = answer.get("RecordCount")
    return -1 if rows is None else int(rows)


def _whole(known: dict[str, Any], states: list[str]) -> SessionState:
    """Return one session for those of all partitions: it is as ready as the least ready of them."""
    found = [_STATES.get(state) or state for state in states]
    dead = [state for state in found if state not in (interface.READY, interface.PENDING)]
    state = dead[0] if dead else interface.PENDING if interface.PENDING in found else interface.READY
    rows = [part[2] for part in known["parts"]]
    return SessionState(PREFIX + json.dumps(known), state, sum(rows) if min(rows) >= 0 else None)
