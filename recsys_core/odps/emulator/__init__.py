"""A MaxCompute for this machine: it speaks the wire to the real client, and keeps tables as folders of Parquet.

It checks signatures as the service does, and makes trouble when asked to (`faults`).
"""

import ipaddress
import json
import secrets
import socket
import struct
import threading
from collections.abc import Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from recsys_core.odps.credentials import Keys
from recsys_core.odps.emulator.faults import Fault, Faults
from recsys_core.odps.emulator.rest import Rest
from recsys_core.odps.emulator.signature import Keyring
from recsys_core.odps.emulator.storage import MAX_BLOCK_NUMBER, Storage
from recsys_core.odps.emulator.store import Store
from recsys_core.odps.emulator.tunnel import Tunnel
from recsys_core.odps.emulator.wire import Answer, RefusedError, Request, as_json

__all__ = ["Emulator", "Fault"]

_CONTROL = "/emulator/"
_LINGER_NOT = struct.pack("ii", 1, 0)


class Emulator:
    """A server in threads of this process. Use it as a context manager, or call `serve` to stay in it.

    Attributes:
        endpoint: what clients call the REST endpoint.
        control_token: what a request of a control address must have as its header `X-Emulator-Token`.
        faults: the trouble to come, and counts of requests.
        keyring: the accounts that are let in.
    """

    def __init__(
        self,
        directory: Path,
        keys: Iterable[Keys],
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        max_block_number: int = MAX_BLOCK_NUMBER,
        has_storage_api: bool = True,
    ) -> None:
        """Serve the tables below `directory`; port 0 is any that is free. Without a Storage API there is the tunnel.

        Raises:
            OSError: the port is taken.
        """
        store = Store(directory)
        self.control_token = secrets.token_urlsafe(24)
        self.faults, self.keyring = Faults(), Keyring(keys)
        self.rest, self.storage = Rest(store), Storage(store, max_block_number=max_block_number)
        self.tunnel = Tunnel(store, max_block_number=max_block_number)
        self._has_storage_api = has_storage_api
        self._server = _Server((host, port), _Handler)
        self._server.emulator = self
        self.host = f"{host}:{self._server.server_address[1]}"
        self.endpoint = f"http://{self.host}/api"
        self._thread = threading.Thread(target=self.serve, name="odps-emulator", daemon=True)

    def serve(self) -> None:
        """Answer until the server is shut down."""
        self._server.serve_forever(poll_interval=0.05)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, request: Request) -> tuple[Answer, Fault | None]:
        """Return the answer to a request, and what is to be done to it on its way."""
        if request.path.startswith(_CONTROL):
            return self._control(request), None
        is_rest = not request.path.startswith(("/api/storage/", "/projects/"))
        part = self.rest if is_rest else self.tunnel if request.path.startswith("/projects/") else self.storage
        fault = self.faults.next(part.operation(request))
        try:
            if fault is not None:
                _refuse(fault)
            self.keyring.verify(request)
            if fault is not None and fault.kind == "reset":
                return Answer(), fault
            answer = self._answered(part, request, fault)
        except RefusedError as error:
            return error.answer(as_xml=is_rest), None
        if fault is not None and fault.kind in ("wait", "state"):
            return _unready(answer, fault, part.operation(request)), None
        # A stream of the tunnel that was cut short is whole by its own measure.
        return answer, None if fault is not None and fault.kind == "short" and part is self.tunnel else fault

    def _answered(self, part: Rest | Storage | Tunnel, request: Request, fault: Fault | None) -> Answer:
        if isinstance(part, Rest):
            return part.answer(request, self.host)
        if isinstance(part, Tunnel):
            return part.answer(request, fault.after if fault is not None and fault.kind == "short" else None)
        if not self._has_storage_api:
            raise RefusedError(403, "NoPermission", "the Storage API is not open for this project")
        return part.answer(request)

    def _control(self, request: Request) -> Answer:
        """Take faults and keys from tests that run in another process of this machine."""
        given = request.headers.get("x-emulator-token", "").encode()
        is_near = ipaddress.ip_address(request.client.partition("%")[0]).is_loopback
        if not is_near or not secrets.compare_digest(given, self.control_token.encode()):
            message = "from this machine only, and with the header X-Emulator-Token, which is printed at the start"
            return as_json({"Code": "Forbidden", "Message": message}, 403)
        match request.method, request.path.removeprefix(_CONTROL):
            case "GET", "requests":
                return as_json(dict(self.faults.requests))
            case "POST", "faults":
                self.faults.add(*(Fault.model_validate(fault) for fault in json.loads(request.body)))
            case "DELETE", "faults":
                self.faults.clear()
            case "DELETE", "sessions":
                self.storage.forget()
                self.tunnel.forget()
            case "POST", "keys":
                self.keyring.replace(Keys(*values) for values in json.loads(request.body))
            case _:
                return as_json({"Code": "NoSuchObject", "Message": request.path}, 404)
        return as_json({})


def _unready(answer: Answer, fault: Fault, operation: str) -> Answer:
    """Return the answer with another state of the session, as the interface names it."""
    assert isinstance(answer.body, bytes)
    by_tunnel = operation.startswith("tunnel_")
    waiting = ("CLOSING", "INITIATING") if by_tunnel else ("COMMITTING", "INIT")
    state = fault.text if fault.kind == "state" else waiting[0 if operation.endswith("commit") else 1]
    changed = {"Status": state, "RecordCount": None} if by_tunnel else {"SessionStatus": state, "RecordCount": -1}
    return as_json(json.loads(answer.body or b"{}") | changed, 202 if fault.kind == "wait" else answer.status)


def _refuse(fault: Fault) -> None:
    if fault.kind == "status":
        codes = {
            400: "InvalidArgument",
            403: "NoPermission",
            401: "Unauthorized",
            429: "FlowExceeded",
            503: "ServiceUnavailable",
        }
        raise RefusedError(fault.status, codes.get(fault.status, "InternalServerError"), "as the test asked for")
    if fault.kind == "expired":
        raise RefusedError(401, "AuthenticationRequestExpired", "the token has expired, as the test asked for")
    if fault.kind == "gone":
        raise RefusedError(404, "NoSuchObject", "the session does not exist, as the test asked for")


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    emulator: Emulator

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that have gone; of our own errors say all."""
        import sys

        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        """Answer any method: the emulator looks at it itself."""
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, self.path, headers, self._body(), str(self.client_address[0]))
        answer, fault = self.server.emulator.answer(request)  # pyright: ignore[reportAttributeAccessIssue]
        if fault is not None and fault.kind in ("reset", "lost"):
            self._cut()
            return
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("x-odps-request-id", "emulator")
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if isinstance(answer.body, bytes):
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body)
            return
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self._stream(answer.body, fault)

    do_POST = do_PUT = do_DELETE = do_GET

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library calls it so
        """Keep quiet: requests are counted."""

    def _stream(self, pieces: Iterator[bytes], fault: Fault | None) -> None:
        # The first piece is the schema.
        for number, piece in enumerate(pieces):
            if fault is not None and number == fault.after + 1:
                if fault.kind != "short":
                    self._chunk(piece[: len(piece) // 2])
                if fault.kind == "cut":
                    self._cut()
                    return
                break
            self._chunk(piece)
        self.wfile.write(b"0\r\n\r\n")

    def _chunk(self, piece: bytes) -> None:
        if piece:
            self.wfile.write(b"%x\r\n" % len(piece) + piece + b"\r\n")

    def _cut(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
        self.close_connection = True

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", "0")))
        pieces = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)
