"""MLflow's scoring server in a thread, as the tests of both products ask it."""

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
