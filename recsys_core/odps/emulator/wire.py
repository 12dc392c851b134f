"""Requests, answers and refusals, as the handlers of the emulator see them."""

import json
import urllib.parse
from collections.abc import Iterator
from typing import NamedTuple
from xml.sax import saxutils


class Request(NamedTuple):
    """One HTTP request; `target` is as it stood on the request line, `headers` have lower-case names.

    `client` is the address that it comes from.
    """

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    client: str = "127.0.0.1"

    @property
    def path(self) -> str:
        """The path, decoded."""
        return urllib.parse.urlsplit(urllib.parse.unquote(self.target)).path

    @property
    def params(self) -> dict[str, str]:
        """The query's parameters, decoded once."""
        query = urllib.parse.urlsplit(self.target).query
        return dict(urllib.parse.parse_qsl(query, keep_blank_values=True))


class Answer(NamedTuple):
    """What is answered; a body in pieces is sent in chunks."""

    status: int = 200
    body: bytes | Iterator[bytes] = b""
    content_type: str = "application/json"
    headers: dict[str, str] = {}  # noqa: RUF012 - it is never changed


class RefusedError(Exception):
    """A request that is answered with an error: `code` is what MaxCompute's client makes an exception of."""

    def __init__(self, status: int, code: str, message: str) -> None:
        """Refuse with `status`."""
        super().__init__(message)
        self.status, self.code = status, code

    def answer(self, *, as_xml: bool) -> Answer:
        """Return the answer, in XML as the REST interface has it or in JSON as the others have."""
        if as_xml:
            text = (
                f"<Error><Code>{self.code}</Code><Message>{saxutils.escape(str(self))}</Message>"
                "<RequestId>emulator</RequestId><HostId>emulator</HostId></Error>"
            )
            return Answer(self.status, text.encode(), "application/xml")
        return as_json({"Code": self.code, "Message": str(self), "RequestId": "emulator"}, self.status)


def as_json(value: object, status: int = 200) -> Answer:
    """Return an answer that holds `value` as JSON."""
    return Answer(status, json.dumps(value).encode())
