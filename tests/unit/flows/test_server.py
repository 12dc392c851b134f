"""The temporary Prefect server: there when it is needed, gone with the process that started it."""

import http.server
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from flows import server


@pytest.fixture(scope="module")
def home(prefect_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home of Prefect whose database has no runs."""
    return shutil.copytree(prefect_home, tmp_path_factory.mktemp("prefect") / "home")


@pytest.fixture(autouse=True)
def _no_server(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setenv("PREFECT_HOME", str(home))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start Prefect without measuring its coverage, which takes half as long again."""
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)


@pytest.fixture
def started(unmeasured: None) -> Iterator[server.Server]:
    running = server.Server()
    yield running
    running.stop()


def test_it_answers_and_ends() -> None:
    # In a process of its own: other tests' servers and runs are known to this one.
    code = (
        "import httpx\n"
        "from flows import server\n"
        "with server.temporary() as started:\n"
        "    print(started.address(), httpx.post(f'{started.address()}/flow_runs/count', json={}).json())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    address, _, count = done.stdout.strip().partition(" ")
    assert address.startswith("http://127.0.0.1:"), done.stderr
    assert count == "0"
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{address}/health")


@pytest.mark.parametrize(
    ("file", "text", "needed"),
    [
        ("pyproject.toml", '[project]\ndependencies = ["prefect"]\n', True),
        ("pyproject.toml", '[tool.prefect.api]\nurl = "http://127.0.0.1:4200/api"\n', False),
        ("prefect.toml", '[api]\nurl = "http://127.0.0.1:4200/api"\n', False),
        (".env", "PREFECT_API_URL=http://127.0.0.1:4200/api\n", False),
        ("home/profiles.toml", '[profiles.ours]\nPREFECT_API_URL = "http://127.0.0.1:4200/api"\n', False),
        ("home/profiles.toml", 'active = "ours"\n[profiles.ours]\nPREFECT_LOGGING_LEVEL = "DEBUG"\n', True),
    ],
)
def test_one_is_started_before_prefect_is_asked_only_where_none_can_be_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, file: str, text: str, needed: bool
) -> None:
    monkeypatch.delitem(sys.modules, "prefect", raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "home").mkdir()
    assert server.is_needed()
    (tmp_path / file).write_text(text)
    assert server.is_needed() is needed
    monkeypatch.setenv("PREFECT_API_URL", "")
    assert server.is_needed() is needed
    monkeypatch.setenv("prefect_api_url", "http://127.0.0.1:4200/api")
    assert not server.is_needed()


def test_it_dies_with_who_started_it() -> None:
    code = (
        "from flows.server import Server; import sys; s = Server(); print(s._process.pid, flush=True); sys.stdin.read()"
    )
    starter = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert starter.stdout is not None
    started = psutil.Process(int(starter.stdout.readline()))
    starter.send_signal(signal.SIGKILL)
    starter.communicate()
    started.wait(600)


@pytest.mark.usefixtures("unmeasured")
def test_a_server_that_does_not_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_DATABASE_CONNECTION_URL", "sqlite+aiosqlite:////nowhere/prefect.db")
    started = server.Server()
    with pytest.raises(RuntimeError, match="Prefect's temporary server did not start"):
        started.address()
    started.stop()


@pytest.mark.parametrize(
    ("kind", "body", "path", "expected"),
    [
        ("text/html", b"<html>sign in</html>", "/api", "no Prefect server but a gateway, .*status 200, text/html"),
        (
            "text/html",
            b"<html>the pages</html>",
            "",
            "not the API's address; set it to http://127.0.0.1:[0-9]+/api, or",
        ),
    ],
)
def test_what_answers_and_is_no_prefect_is_named(
    monkeypatch: pytest.MonkeyPatch, kind: str, body: bytes, path: str, expected: str
) -> None:
    class Gateway(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    with http.server.HTTPServer(("127.0.0.1", 0), Gateway) as gateway:
        threading.Thread(target=gateway.handle_request, daemon=True).start()
        with pytest.raises(ValueError, match=expected):
            server._require(f"http://127.0.0.1:{gateway.server_port}{path}")


@pytest.mark.parametrize("named", ["nowhere", "http://127.0.0.1:9/api", "http://[::1/api"])
def test_an_address_at_which_nothing_answers_is_named(named: str) -> None:
    with pytest.raises(ValueError, match=f"PREFECT_API_URL {re.escape(named)}: no Prefect server answers there"):
        server._require(named)


def test_a_named_server_that_falls_silent_is_named_once(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    done, asked = threading.Event(), 0

    def get(address: str, timeout: float) -> httpx.Response:
        nonlocal asked
        asked += 1
        if asked == 5:
            done.set()
        if asked == 3:
            return httpx.Response(200)
        raise httpx.ConnectError("refused")

    monkeypatch.setattr(httpx, "get", get)
    monkeypatch.setattr(server, "_ASK_SECONDS", 0.01)
    server._report_silence("http://user:word@127.0.0.1:9/api", done)
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("waiting for the Prefect server at http://") for line in lines)
    assert "word" not in "".join(lines)


def test_a_proxy_that_cannot_be_used_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "nonsense://proxy:1")
    with pytest.raises(ValueError, match="ALL_PROXY of the environment cannot be used"), server.temporary():
        pass


def test_a_named_one_is_used_and_one_that_dies_is_started_again_and_who_asks_only_waits(
    started: server.Server, capfd: pytest.CaptureFixture[str]
) -> None:
    address = started.address()
    code = "from flows.server import temporary\nwith temporary() as started: print(started)"
    env = os.environ | {"PREFECT_API_URL": address}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.stdout == "None\n", done.stderr
    first = started._process
    first.kill()
    first.wait()
    assert httpx.get(f"{address}/health", timeout=180).status_code == 200
    assert "Prefect's temporary server was killed by SIGKILL; it was started again" in capfd.readouterr().err
    second = started._process
    assert second.pid != first.pid
    started.stop()
    assert second.poll() is not None
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{address}/health")


def test_one_that_dies_too_often_ends_the_command() -> None:
    code = (
        "import signal, sys, threading\n"
        "from flows import server\n"
        "server._MAX_RESTARTS = 0\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
        "with server.temporary() as started:\n"
        "    started.address()\n"
        "    started._process.kill()\n"
        "    threading.Event().wait()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 143, done.stderr
    assert done.stderr == "error: Prefect's temporary server ended 1 times\n"
