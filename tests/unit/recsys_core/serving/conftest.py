"""MLflow's scoring server, and the service of `dayline serve`, in threads, as the tests ask them."""

import datetime
import http.client
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uvicorn
from mlflow.pyfunc import scoring_server

from recsys_core.ranking import publish as ranking_publish
from recsys_core.retrieval import publish
from recsys_core.serving.service import Folder, Limits
from recsys_core.serving.service.recorder import Options
from recsys_core.serving.service.server import Service, bound

JSON = "application/json"
DAY = datetime.date(2024, 3, 1)


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

        sources = {place: Folder(folder, folder.name) for place, folder in folders.items()}
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


def _bundle(made: dict[str, Any], folder: Path) -> Path:
    """A retrieval release whose items have the fields that the ranking release reads."""
    ids = pq.read_table(made["embeddings"].items)["item_id"]
    number = np.arange(60)
    items = pa.table(
        {
            "item_id": ids,
            "item": number % 8,
            "shelf": number % 10,
            "brand": [f"b{n % 3}" for n in number],
            "price": number * 1.5,
            "sampling_weight": np.ones(60),
        }
    )
    (folder / "items").mkdir(parents=True)
    pq.write_table(items, folder / "items" / "part-00000.parquet")
    queries = publish.queries(made["model"], made["data"], made["embeddings"], 12)
    bundle = publish.Bundle(made["model"], made["index"], queries, mask_seen=True, items=folder / "items")
    bundle.fill(folder / "shop")
    return folder / "shop"


@pytest.fixture(scope="session")
def folders(made_day, made_ranking_day, tmp_path_factory) -> dict[str, Path]:
    """Two retrieval releases and one of ranking."""
    root = tmp_path_factory.mktemp("released")
    found = {name: _bundle(made_day(root / name, DAY, seed), root / name) for name, seed in (("a", 6), ("b", 7))}
    made = made_ranking_day(root / "ctr-run", DAY, 6)
    rows, scores = ranking_publish.examples(made["model"], made["data"], "test", made["predictions"], 12)
    ranking_publish.Bundle(made["model"], rows, scores).fill(root / "ctr")
    return found | {"ctr": root / "ctr"}
