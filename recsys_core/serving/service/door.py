"""The door: who may enter, how much is read and for how long, and what every answer carries.

It stands before the routes, as ASGI: a request that is refused here costs nothing else.
"""

import asyncio
import hmac
import re
import time
import uuid
from collections.abc import Callable
from typing import Any

import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from recsys_core import fault
from recsys_core.serving.service.limits import Limits
from recsys_core.serving.service.metrics import Metrics

VERSION_HEADER = b"x-dayline-version"
REQUEST_ID_HEADER = "X-Request-Id"
# What a probe of a cluster asks, which has no token.
OPEN = ("/health", "/ready")
_JSON = "application/json"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class Refused(Exception):  # noqa: N818 - it is an answer
    """An answer other than 200: `status`, what is wrong in the form of pydantic's errors, when to try again."""

    def __init__(self, status: int, detail: list[dict[str, Any]], retry_after: int | None = None) -> None:
        """See the class."""
        super().__init__(status)
        self.status, self.detail, self.retry_after = status, detail, retry_after


def refused(status: int, message: str, *place: str | int, retry_after: int | None = None) -> Refused:
    """Return a refusal of one line; `place` is where in the request."""
    return Refused(status, [{"loc": [*place], "msg": message, "type": "refused"}], retry_after)


def response(error: Refused, tag: str) -> Response:
    """Return a refusal as it is sent; `tag` names what is live."""
    headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
    if error.status in (408, 413):
        headers["Connection"] = "close"  # what is left of the body is not read
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return Response(orjson.dumps({"detail": error.detail, "version": tag}, default=str), error.status, headers, _JSON)


class Door:
    """Wraps the routes of an app."""

    def __init__(
        self, app: Any, token: bytes | None, tag: Callable[[], str], paths: set[str], metrics: Metrics
    ) -> None:
        """`tag` names what is live; `paths` are those that are counted by name."""
        self._app, self._token, self._tag, self._paths, self._metrics = app, token, tag, paths, metrics
        self._fault = fault.temporary_file()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status, path = time.perf_counter(), 0, scope["path"]

        async def marked(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"].append((VERSION_HEADER, self._tag().encode("latin-1", "replace")))
            await send(message)

        if self._token is not None and path not in OPEN and not self._may_enter(scope["headers"]):
            error = refused(401, "no valid bearer token", "header", "authorization")
            await response(error, self._tag())(scope, receive, marked)
        else:
            try:
                await self._app(scope, receive, marked)
            except Exception as error:  # noqa: BLE001 - nothing above could handle it but by a traceback
                said = fault.write(error, self._fault)
                if not status:
                    await response(refused(500, said), self._tag())(scope, receive, marked)
        self._metrics.answered(path if path in self._paths else "other", status, time.perf_counter() - started)

    def _may_enter(self, headers: list[tuple[bytes, bytes]]) -> bool:
        given = [value for name, value in headers if name == b"authorization"]
        scheme, _, token = (given[0] if len(given) == 1 else b"").partition(b" ")
        # In a time that says nothing of how much of it was right.
        return hmac.compare_digest(token.strip(), self._token or b"") and scheme.lower() == b"bearer"


def request_id(request: Request) -> str:
    """Return the client's name of a request, or a new one.

    Raises:
        Refused: it is empty, long, or has signs that a log or a header of an answer should not have (422).
    """
    given = request.headers.get(REQUEST_ID_HEADER)
    if given is None:
        return uuid.uuid4().hex
    if not _REQUEST_ID.fullmatch(given):
        raise refused(422, "1 to 128 of A-Z, a-z, 0-9, . _ : -", "header", REQUEST_ID_HEADER.lower())
    return given


async def body(request: Request, limits: Limits) -> bytes:
    """Read a body.

    Raises:
        Refused: it is no JSON by its type (415), too large (413), or not there in time (408).
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != _JSON:
        raise refused(415, f"send {_JSON}", "header", "content-type")
    most = limits.max_body_bytes
    too_large = refused(413, f"send a body of at most {most:,} bytes", "body")
    length = request.headers.get("content-length", "")
    if length.isascii() and length.isdigit() and (len(length) > 18 or int(length) > most):
        raise too_large
    parts, num_bytes = [], 0
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for part in request.stream():
                num_bytes += len(part)
                if num_bytes > most:
                    raise too_large
                parts.append(part)
    except TimeoutError:
        raise refused(408, f"the body was not there within {limits.body_seconds:g} s", "body") from None
    except ClientDisconnect:
        raise refused(400, "the client is gone", "body") from None
    return b"".join(parts)
