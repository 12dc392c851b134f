"""The routes of the service, and the page that describes them."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from recsys_core import fault
from recsys_core.serving import asked
from recsys_core.serving.service import door, live
from recsys_core.serving.service.batching import Batcher
from recsys_core.serving.service.door import Refused, refused
from recsys_core.serving.service.limits import Limits
from recsys_core.serving.service.live import Endpoint, Live
from recsys_core.serving.service.metrics import CONTENT_TYPE, Metrics
from recsys_core.serving.service.recorder import Recorder

_JSON = "application/json"
_OPERATIONS = {
    live.RECOMMEND: "The best items for a user",
    live.EMBED: "A user's vector",
    live.RANK: "The scores of given items for a user",
    live.BOTH: "The best items for a user, retrieved by one release and ranked by another",
}
_STATES = {
    "/health": "200 while the process lives",
    "/ready": "200 while requests are answered; 503 before a release is loaded and warm, and while the service ends",
    "/version": "What is live",
    "/metrics": "Counters and timings, for Prometheus",
}
_MAX_ERRORS = 20
_TEXT: dict[str, Any] = {"type": "string"}
_STATE_ANSWERS: dict[str, dict[str, Any]] = {
    "/health": {"status": _TEXT},
    "/ready": {"status": _TEXT, "version": _TEXT},
    "/version": {
        "version": _TEXT,
        "service": _TEXT,
        "releases": {"type": "object", "description": "by place: `name` and `version`"},
        "refused": {"type": "object", "description": "by place, why a release was not taken"},
    },
}
_PROBLEM = {
    "type": "object",
    "properties": {
        "loc": {"type": "array", "items": {"type": ["string", "integer"]}, "description": "where in the request"},
        "msg": {"type": "string", "description": "what is wrong"},
        "type": _TEXT,
    },
    "required": ["loc", "msg", "type"],
}
_REFUSALS = {
    401: "No valid bearer token",
    404: "No such path, or no release that answers it",
    408: "The body took too long",
    413: "The body is too large",
    415: "Not JSON",
    422: "The request does not fit the release; `detail` names the field",
    429: "Too many requests at once; try again after `Retry-After` seconds",
    500: "A fault of Dayline; the line names the file with its traceback",
    503: "Not ready, or not answered in time; try again after `Retry-After` seconds",
}


class Application:
    """The ASGI application of one service."""

    def __init__(
        self,
        served: Live,
        batcher: Batcher,
        limits: Limits,
        metrics: Metrics,
        token: bytes | None,
        recorder: Recorder | None = None,
    ) -> None:
        """`token`: what a client has to send; None lets all enter."""
        self._recorder = recorder
        self._live, self._batcher, self._limits, self._metrics = served, batcher, limits, metrics
        self.is_draining = False
        self._refusals: dict[str, str] = {}
        self._pages: tuple[str, dict[str, Any]] = ("", {})
        self._fault = fault.temporary_file()
        self.api = FastAPI(
            title="Dayline", version=fault.versions().split(",")[0].removeprefix("dayline "), redoc_url=None
        )
        for path, summary in _OPERATIONS.items():
            self.api.add_api_route(
                path, self._operation(path), methods=["POST"], summary=summary, response_class=Response
            )
        for path, state in zip(_STATES, (self._health, self._ready, self._version, self._text), strict=True):
            self.api.add_api_route(path, state, methods=["GET"], summary=_STATES[path], response_class=Response)
        self.api.add_exception_handler(HTTPException, self._no_such_route)
        self.api.openapi = self._page  # pyright: ignore[reportAttributeAccessIssue] - so FastAPI documents it
        paths = {*_OPERATIONS, *_STATES, "/docs", "/openapi.json"}
        self.asgi = door.Door(self.api, token, self._tag, paths, metrics)

    def refuse(self, place: str, message: str | None) -> None:
        """Say at `/version` why a release was not taken; None: there is nothing to say."""
        if message is None:
            self._refusals.pop(place, None)
        else:
            self._refusals[place] = message

    def _tag(self) -> str:
        served = self._live.current
        return served.tag if served is not None else "none"

    async def _no_such_route(self, _request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        made = door.response(refused(error.status_code, error.detail, "path"), self._tag())
        made.headers.update(error.headers or {})
        return made

    def _operation(self, path: str) -> Callable[[Request], Any]:
        async def answer(request: Request) -> Response:
            try:
                request_id = door.request_id(request)
                found = await self._answer(path, request, request_id)
                return Response(found, media_type=_JSON, headers={door.REQUEST_ID_HEADER: request_id})
            except Refused as error:
                return door.response(error, self._tag())

        answer.__name__ = path.strip("/")
        return answer

    async def _answer(self, path: str, request: Request, request_id: str) -> bytes:
        started = time.perf_counter()
        # Once: what is checked by one release is answered by the same.
        served = self._live.current
        if served is None:
            raise refused(503, "no release is loaded yet", retry_after=1)
        endpoint = served.endpoints.get(path)
        if endpoint is None:
            raise refused(404, f"{served.tag} does not answer {path}; it answers {', '.join(served.endpoints)}", "path")
        data = await door.body(request, self._limits)
        if self._batcher.is_full:
            raise refused(429, f"{self._batcher.num_held} requests are being answered", retry_after=1)
        try:
            given = asked.json_object(data, "an object")
            endpoint.shape.model.__pydantic_validator__.validate_python(given)
        except ValidationError as error:
            raise Refused(422, _errors(error)) from None
        except ValueError as error:
            raise refused(422, str(error), "body") from None
        answer = await self._worked_out(endpoint, given)
        if self._recorder is not None:
            self._recorder.offer(path, endpoint.tag, given, answer, time.perf_counter() - started, request_id)
        return answer

    async def _worked_out(self, endpoint: Endpoint, given: Mapping[str, Any]) -> bytes:
        try:
            return await self._batcher.answer(endpoint.answers, given)
        except ValueError as error:
            raise refused(422, str(error), "body") from None
        except TimeoutError:
            raise refused(503, f"not answered within {self._limits.request_seconds:g} s", retry_after=1) from None
        except Exception as error:  # noqa: BLE001 - of one request; the service goes on
            raise refused(500, fault.write(error, self._fault)) from None

    async def _health(self) -> Response:
        return Response(b'{"status":"alive"}', media_type=_JSON)

    async def _ready(self) -> Response:
        served = self._live.current
        if served is None or self.is_draining:
            reason = "the service ends" if self.is_draining else "no release is loaded yet"
            return door.response(refused(503, reason, retry_after=1), self._tag())
        return Response(orjson.dumps({"status": "ready", "version": served.tag}), media_type=_JSON)

    async def _version(self) -> Response:
        served = self._live.current
        loaded = {} if served is None else {"retrieval": served.retrieval, "ranking": served.ranking}
        found = {
            "version": self._tag(),
            "service": self.api.version,
            "releases": {
                place: {"name": one.release.name, "version": one.release.version}
                for place, one in loaded.items()
                if one is not None
            },
            "refused": self._refusals,
        }
        return Response(orjson.dumps(found), media_type=_JSON)

    async def _text(self) -> Response:
        self._metrics.held.set(self._batcher.num_held)
        return Response(self._metrics.text(), media_type=CONTENT_TYPE)

    def _page(self) -> dict[str, Any]:
        """Return the description of what is live: only what it answers, with its own columns and a filled example."""
        served = self._live.current
        tag, page = self._pages
        if served is not None and tag == served.tag:
            return page
        page = get_openapi(title=self.api.title, version=self.api.version, routes=self.api.routes)
        schemas = page.setdefault("components", {}).setdefault("schemas", {})
        for path, content in page["paths"].items():
            for operation in content.values():
                operation["responses"] = _responses(path, _STATE_ANSWERS.get(path, {}))
        for path in _OPERATIONS:
            endpoint = None if served is None else served.endpoints.get(path)
            if endpoint is None:
                del page["paths"][path]
                continue
            page["paths"][path]["post"]["responses"] = _responses(path, {"version": _TEXT, **endpoint.shape.answer})
            schema = endpoint.shape.model.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas |= schema.pop("$defs", {})
            content = {_JSON: {"schema": schema, "example": endpoint.shape.example}}
            page["paths"][path]["post"]["requestBody"] = {"required": True, "content": content}
        if served is not None:
            self._pages = served.tag, page
        return page


def _errors(error: ValidationError) -> list[dict[str, Any]]:
    """Return what is wrong and where, without what was sent."""
    found = error.errors(include_url=False, include_input=False, include_context=False)
    return [{"loc": ["body", *one["loc"]], "msg": one["msg"], "type": one["type"]} for one in found[:_MAX_ERRORS]]


def _responses(path: str, properties: dict[str, Any]) -> dict[str, Any]:
    answers: dict[str, Any] = {"type": "object", "properties": properties, "required": [*properties]}
    media = CONTENT_TYPE if path == "/metrics" else _JSON
    found: dict[str, Any] = {
        "200": {"description": "The answer", "content": {media: {"schema": _TEXT if path == "/metrics" else answers}}}
    }
    statuses = _REFUSALS if path in _OPERATIONS else {"/ready": (503,), "/health": ()}.get(path, (401,))
    detail = {"type": "array", "items": _PROBLEM}
    refusal = {
        "type": "object",
        "properties": {"detail": detail, "version": _TEXT},
        "required": ["detail", "version"],
    }
    for status in statuses:
        found[str(status)] = {"description": _REFUSALS[status], "content": {_JSON: {"schema": refusal}}}
    return found
