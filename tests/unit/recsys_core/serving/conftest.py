"""MLflow's scoring server, and the service of `dayline serve`, in threads, as the tests ask them."""

import http.client
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import pytest
import uvicorn
from mlflow.pyfunc import scoring_server

from recsys_core.serving.service import Folder, Limits
from recsys_core.serving.service.recorder import Options
from recsys_core.serving.service.server import Service, bound

JSON = "application/json"


class Server:
    """MLflow's scoring server of one model, on a port of its own, in a thread of this process."""

    def __init__(self, app: Any) -> None:
        self._server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
        self._thread = threading.Thread(target=self._server.run)
        ready = threading.Event()
        startup = self._server.startup

        async def started(*arguments: Any, **options: Any) -> None:
            await startup(*arguments, **options)
            ready.set()

        self._server.startup = started
        self._thread.start()
        assert ready.wait(600)
        self.port = self._server.servers[0].sockets[0].getsockname()[1]

    def ask(self, body: bytes, content_type: str | None = JSON) -> tuple[int, dict[str, Any]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        connection.request("POST", "/invocations", body, {} if content_type is None else {"Content-Type": content_type})
        response = connection.getresponse()
        text = response.read().decode()
        connection.close()
        assert "Traceback" not in text
        return response.status, json.loads(text)

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join()


@pytest.fixture(scope="session")
def start_server() -> type[Server]:
    """What serves an app."""
    return Server


@pytest.fixture(scope="module")
def serve() -> Iterator[Callable[[Path], Server]]:
    """Serve a saved model, until the module's tests are done."""
    running: list[Server] = []

    def start(model: Path) -> Server:
        with pytest.MonkeyPatch.context() as patched:
            # As MLflow's command passes it to its server's process.
            patched.setenv(scoring_server._SERVER_MODEL_PATH, str(model))
            running.append(Server(scoring_server.init(mlflow.pyfunc.load_model(str(model)))))
        return running[-1]

    yield start
    for server in running:
        server.close()


class Running:
    """A service of folders, on a port of its own, in a thread of this process."""

    def __init__(
        self,
        folders: dict[str, Path],
        token: bytes | None = None,
        logged: Options | None = None,
        warm_up: Any = (),
        **limits: Any,
    ) -> None:
        """`folders` by place: `release`, `rank_release`."""
        sockets = bound("127.0.0.1", 0)
        self.port = sockets[0].getsockname()[1]
        self.lines: list[str] = []
        self.failed: ValueError | None = None
        ready = threading.Event()

        def log(line: str) -> None:
            self.lines.append(line)
            if line.startswith("serving"):
                ready.set()

        sources = {place: Folder(folder) for place, folder in folders.items()}
        # A busy machine is slow: no test fails for the time that an answer takes.
        bounds = Limits.model_validate({"request_seconds": 600} | limits)
        self.service = Service(sources, None, bounds, token, log, logged, warm_up)

        def run() -> None:
            try:
                self.service.run(sockets)
            except ValueError as error:
                self.failed = error
            ready.set()

        self._thread = threading.Thread(target=run)
        self._thread.start()
        assert ready.wait(600)

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)

    def ask(
        self, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, Any], dict[str, str]]:
        """Ask on a connection of its own; return status, answer and headers (names in lower case)."""
        connection = self.connect()
        try:
            return exchange(connection, path, body, headers)
        finally:
            connection.close()

    def close(self) -> None:
        self.service.stop()
        self._thread.join()


def exchange(
    connection: http.client.HTTPConnection, path: str, body: Any = None, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Send a request, a POST if it has a body; bytes are sent as they are, all else as JSON."""
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    connection.request("GET" if body is None else "POST", path, data, {"Content-Type": JSON} | (headers or {}))
    response = connection.getresponse()
    text = response.read().decode()
    assert "Traceback" not in text
    kind = response.headers.get_content_type()
    return (
        response.status,
        json.loads(text) if kind == JSON else {"text": text},
        {name.lower(): value for name, value in response.headers.items()},
    )


@pytest.fixture(scope="module")
def run_service() -> Iterator[Callable[..., Running]]:
    """Serve folders, until the module's tests are done."""
    running: list[Running] = []

    def start(folders: dict[str, Path], **how: Any) -> Running:
        running.append(Running(folders, **how))
        return running[-1]

    yield start
    for one in running:
        one.close()


@pytest.fixture(scope="session")
def ask_on() -> Callable[..., tuple[int, dict[str, Any], dict[str, str]]]:
    """What asks on a connection that is kept."""
    return exchange
