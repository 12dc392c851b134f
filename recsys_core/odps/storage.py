"""The Storage API, version 1: one session over any partitions, rows by number, blocks as whole Arrow streams."""

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
from odps import ODPS, errors
from odps.apis import storage_api as api
from odps.models import Table
from odps.rest import RestClient

from recsys_core.odps import interface
from recsys_core.odps import path as paths
from recsys_core.odps.interface import SessionState
from recsys_core.odps.path import Partition

_COMPRESSIONS = {
    None: api.Compression.UNCOMPRESSED,
    "lz4": api.Compression.LZ4_FRAME,
    "zstd": api.Compression.ZSTD,
}


class Storage(interface.Interface):
    """See `interface.Interface`."""

    name = "the Storage API"

    def __init__(
        self,
        odps: ODPS,
        table: Table,
        *,
        url: str | None,
        quota_name: str | None,
        compression: str | None,
        max_batch_rows: int,
    ) -> None:
        """`compression` is Arrow's name of how rows are compressed, `max_batch_rows` how many come at a time."""
        self._client = _Client(odps, table, rest_endpoint=url, quota_name=quota_name)
        self._compression, self._max_batch_rows = _COMPRESSIONS[compression], max_batch_rows

    def open_read(self, partitions: Sequence[Partition], columns: Sequence[str], keys: Sequence[str]) -> SessionState:
        """See `interface.Interface.open_read`."""
        request = api.TableBatchScanRequest(
            split_options=api.SplitOptions.get_default_options(api.SplitOptions.SplitMode.ROW_OFFSET),
            required_partitions=[paths.spec(partition) for partition in partitions],
            required_data_columns=[name for name in columns if name not in keys],
            required_partition_columns=[name for name in columns if name in keys],
        )
        return _read_state(self._client.create_read_session(request))

    def read_state(self, session: str, *, refresh: bool = False) -> SessionState:
        """See `interface.Interface.read_state`."""
        return _read_state(self._client.get_read_session(api.SessionRequest(session, refresh=refresh)))

    def batches(self, session: str, start: int, stop: int) -> Iterator[pa.RecordBatch]:
        """See `interface.Interface.batches`."""
        request = api.ReadRowsRequest(
            session_id=session,
            row_index=start,
            row_count=stop - start,
            max_batch_rows=self._max_batch_rows,
            compression=self._compression,
        )
        response = self._client.read_rows_stream(request)._raw_reader  # noqa: SLF001 - its own reader copies every 64 KB
        try:
            with pa.ipc.open_stream(response.raw) as stream:
                yield from stream
            # The end of HTTP, too, so that the connection is used again.
            response.raw.read(1)
        finally:
            response.close()

    def open_write(self, partition: Partition) -> SessionState:
        """See `interface.Interface.open_write`."""
        request = api.TableBatchWriteRequest(partition_spec=paths.spec(partition), overwrite=True)
        return _write_state(self._client.create_write_session(request))

    def write_state(self, session: str) -> SessionState:
        """See `interface.Interface.write_state`."""
        return _write_state(self._client.get_write_session(api.SessionRequest(session)))

    def send(self, session: str, block: int, attempt: int, body: pa.Buffer) -> str:
        """See `interface.Interface.send`."""
        return self._client.send(session, block, attempt, body)

    def commit(self, session: str, messages: Sequence[str]) -> SessionState:
        """See `interface.Interface.commit`."""
        answer = self._client.commit_write_session(api.SessionRequest(session), list(messages))
        # Another status than that of success is an order to wait, whatever the state.
        waits = answer.status != api.Status.OK
        return _write_state(answer)._replace(session=session, **({"state": interface.COMMITTING} if waits else {}))


class _Client(api.StorageApiArrowClient):
    """pyodps' client without its own retries and buffers."""

    @property
    def tunnel_rest(self) -> RestClient:
        return super().tunnel_rest.with_retry_enabled(retry_enabled=False)

    def send(self, session: str, block: int, attempt: int, body: pa.Buffer) -> str:
        params = {"attempt_number": str(attempt), "block_number": str(block)}
        if self._quota_name:
            params["quotaName"] = self._quota_name
        headers = self._fill_common_headers({"Content-Type": "application/octet-stream"})
        url = self._get_resource("sessions", session, "data")
        answer: Any = self.tunnel_rest.post(url, data=interface.Chunks(body), params=params, headers=headers)
        message = answer.json().get("CommitMessage") if answer.status_code == 200 else None
        if not isinstance(message, str):
            raise errors.InternalServerError(
                f"block {block} was answered with {answer.status_code} and no commit message",
                status_code=answer.status_code,
            )
        return message


def _read_state(answer: Any) -> SessionState:
    rows = answer.record_count
    return SessionState(
        answer.session_id, answer.session_status.value, rows if rows is not None and rows >= 0 else None
    )


def _write_state(answer: Any) -> SessionState:
    return SessionState(answer.session_id, answer.session_status.value, int(answer.max_block_num or 0))
