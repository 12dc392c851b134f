"""The service's own door: what MLflow's scoring server does with a request to a bundle.

MLflow's own handler drops parameters and columns that it does not know, reads bodies of any size, and answers an error
with the whole frame, or with a traceback. So while `mlflow models serve` loads a bundle, the next server that it makes
is given this handler instead. Answers have the form that MLflow's have.
"""

import asyncio
import functools
import json
import os
from collections.abc import Awaitable, Callable
from typing import Any

import mlflow.pyfunc.scoring_server as server
from mlflow.exceptions import MlflowException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from recsys_core import fault
from recsys_core.serving import asked

_JSON = "application/json"
_GONE = 499  # the client closed the connection; it is in the server's log only

Answer = Callable[[asked.Columns, Any], list[dict[str, Any]]]


def take_over(answer: Answer) -> None:
    """Let the server that this process is about to make answer by `answer(columns, params)`, if it makes one at all."""
    if server._SERVER_MODEL_PATH not in os.environ:  # noqa: SLF001 - so MLflow's server names the model to its process
        return
    # Only the decorator of the server's one handler is looked up after the model was loaded.
    original = server._async_catch_mlflow_exception  # noqa: SLF001 - likewise

    def decorate(_: Callable[..., Any]) -> Callable[[Request], Awaitable[Response]]:
        server._async_catch_mlflow_exception = original  # noqa: SLF001 - for any other model
        return handler(answer)

    server._async_catch_mlflow_exception = decorate  # noqa: SLF001 - likewise


def handler(answer: Answer) -> Callable[[Request], Awaitable[Response]]:
    """Return what answers a request: 200 with `predictions`, 400 with one line, or 500 with one that names a file.

    A client that is gone gets nothing.
    """
    # One for all requests: the first that fails is the one to look at, and no client fills the disk.
    file = fault.temporary_file()

    async def handle(request: Request) -> Response:
        try:
            data = await _body(request)
            content_type = request.headers.get("content-type", "")
            text = await asyncio.to_thread(functools.partial(_answered, answer, data, content_type))
        except ValueError as error:
            return _refused(MlflowException.invalid_parameter_value(str(error)))
        except ClientDisconnect:
            return Response(status_code=_GONE)
        except Exception as error:  # noqa: BLE001 - nothing above could handle it but by a traceback
            return _refused(MlflowException(fault.write(error, file)))
        return Response(text, media_type=_JSON)

    return handle


def _refused(error: MlflowException) -> Response:
    return Response(error.serialize_as_json(), error.get_http_status_code(), media_type=_JSON)


def _answered(answer: Answer, data: bytes, content_type: str) -> str:
    return json.dumps({"predictions": answer(*asked.body(data, content_type))}, allow_nan=False)


async def _body(request: Request) -> bytes:
    """Read the body. What is too much is read too, for the client to get its answer, but not kept."""
    parts: list[bytes] = []
    num_bytes = 0
    async for part in request.stream():
        num_bytes += len(part)
        if num_bytes <= asked.MAX_BODY_BYTES:
            parts.append(part)
        else:
            parts.clear()
    if num_bytes > asked.MAX_BODY_BYTES:
        raise ValueError(f"a body of {num_bytes:,} bytes; send at most {asked.MAX_BODY_BYTES:,}, in several requests")
    return b"".join(parts)
