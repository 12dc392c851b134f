"""Where MLflow is found, and what is said when it is not."""

import contextlib
import os
import resource
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from recsys_core.tracking import store
from recsys_core.tracking.store import Config


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextlib.contextmanager
def _serving(status: int) -> Iterator[str]:
    """A web server that is not MLflow."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b"<html>")

        do_POST = do_GET

        def log_message(self, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def _message(uri: str, run_root: Path, **fields: float) -> str:
    with pytest.raises(ValueError, match=r"^tracking\.uri ") as caught:
        store.check(Config.model_validate({"uri": uri, **fields}), run_root)
    return str(caught.value)


@pytest.mark.parametrize(
    "uri", ["x", "", "mlflow:5000", "http://", "ftp://u:s3cret@h/x", "nonsense://x", "./mlruns", "/runs/mlflow.db"]
)
def test_what_is_no_address_is_refused_with_the_config(uri):
    with pytest.raises(ValueError, match="is neither the address of an MLflow server, such as") as refused:
        Config(uri=uri)
    assert "s3cret" not in str(refused.value).partition("[type=")[0]


@pytest.mark.parametrize(
    "uri", ["https://u:p@mlflow/base", "sqlite:///a.db", "postgresql+psycopg2://u@h/x", "mysql://h/x"]
)
def test_servers_and_databases_are_addresses(uri):
    assert Config(uri=uri).uri == uri


def test_embedded_store_lies_in_run_root_and_is_made_by_the_check(tmp_path):
    store.check(Config(), tmp_path / "new" / "runs")
    assert (tmp_path / "new" / "runs" / "mlflow.db").is_file()
    assert store.location(Config(), tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    assert store.location(Config(uri="http://mlflow:5000"), tmp_path) == "http://mlflow:5000"


def test_an_embedded_store_is_there_when_it_is_whole(tmp_path):
    left_behind = tmp_path / ".mlflow-1234" / "mlflow.db"
    left_behind.parent.mkdir()
    left_behind.write_text("of a process that was killed")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(ValueError, match=r"mlflow\.db: the database cannot be made \(.*; free some space"):
            store.check(Config(), tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not (tmp_path / "mlflow.db").exists()
    store.check(Config(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow.db"]


def test_no_server_names_the_uri_the_reason_and_the_way_out(tmp_path):
    uri = f"http://127.0.0.1:{_free_port()}"
    message = _message(uri, tmp_path / "runs")
    assert uri in message
    assert "Connection refused" in message
    assert "mlflow server --host 127.0.0.1" in message
    assert "null" in message
    assert not (tmp_path / "runs").exists()


def test_a_server_that_is_not_mlflow(tmp_path):
    with _serving(501) as uri:
        assert "501" in _message(uri, tmp_path)
    with _serving(200) as uri:
        assert uri in _message(uri, tmp_path)


def test_a_server_that_never_answers_is_given_up(tmp_path):
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        assert "timed out" in _message(f"http://127.0.0.1:{mute.getsockname()[1]}", tmp_path, check_seconds=0.5)


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("sqlite:////no/such/folder/mlflow.db", "unable to open database file"),
        ("mysql+nonsense://h/x", "nonsense"),
    ],
)
def test_a_database_that_cannot_be_opened(uri, reason, tmp_path):
    message = _message(uri, tmp_path)
    assert uri in message
    assert reason in message
    assert "sqlite:////folder/mlflow.db" in message


def test_a_file_that_is_no_database(tmp_path):
    (tmp_path / "mlflow.db").write_text("not SQLite at all, but long enough to look at")
    assert "file is not a database" in _message(f"sqlite:///{tmp_path}/mlflow.db", tmp_path)


def test_no_secret_is_ever_shown(tmp_path):
    for uri in (f"http://bob:hunter2@127.0.0.1:{_free_port()}", "postgresql://bob:hunter2@127.0.0.1:1/mlflow"):
        message = _message(uri, tmp_path)
        assert "hunter2" not in message
        assert "bob" not in message
        assert "://***@127.0.0.1" in message
    assert store.redact("from s3://key:secret@bucket/a, http://x@y/") == "from s3://***@bucket/a, http://***@y/"
    assert store.redact("mail@example.org http://plain/a@b") == "mail@example.org http://plain/a@b"


def test_a_servers_password_moves_to_the_environment(monkeypatch):
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, "before")
    client = store.connect("http://bob:p%40ss@127.0.0.1:1/base")
    assert client.tracking_uri == "http://127.0.0.1:1/base"
    found = os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"]
    assert found == ("bob", "p@ss")


def test_nothing_is_reported_and_the_users_choice_wins(monkeypatch):
    monkeypatch.setenv("DO_NOT_TRACK", "false")
    monkeypatch.delenv("MLFLOW_DISABLE_TELEMETRY", raising=False)
    store.set_defaults()
    assert (os.environ["MLFLOW_DISABLE_TELEMETRY"], os.environ["DO_NOT_TRACK"]) == ("true", "false")
    assert os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false"


def test_impatience_ends_with_its_block(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "7")
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    with store.impatient(1.2):
        assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "2"
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "7"
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ


def test_the_embedded_store_lies_in_any_folder(tmp_path: Path) -> None:
    for name in ("a,b #1", "50%25", "what?", "k=v [x] é*"):
        root = tmp_path / name
        root.mkdir()
        store.check(Config(), root)
        client = store.connect(store.location(Config(), root))
        experiment = client.create_experiment("odd", artifact_location=(root / "mlartifacts").as_uri())
        run = client.create_run(experiment)
        client.log_text(run.info.run_id, "there", "a/b.txt")
        assert [path.read_text() for path in (root / "mlartifacts").rglob("b.txt")] == ["there"]
        assert (root / "mlflow.db").is_file()
    # Nothing was made under a name that is not theirs.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["50%25", "a,b #1", "k=v [x] é*", "what?"]
