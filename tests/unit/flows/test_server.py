"""The temporary Prefect server: there when it is needed, gone with whoever started it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest

from flows import server


@pytest.fixture(autouse=True)
def _no_server(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path_factory.getbasetemp() / "prefect-home"))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)


def test_it_answers_and_ends(tmp_path: Path) -> None:
    # In a process of its own: other tests' servers and runs are known to this one.
    code = (
        "import httpx\n"
        "from flows import server\n"
        "with server.temporary() as started:\n"
        "    print(started.address(), httpx.post(f'{started.address()}/flow_runs/count', json={}).json())\n"
    )
    env = os.environ | {"PREFECT_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    address, _, count = done.stdout.strip().partition(" ")
    assert address.startswith("http://127.0.0.1:"), done.stderr
    assert count == "0"
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{address}/health")


def test_it_dies_with_who_started_it() -> None:
    code = (
        "from flows.server import Server; import sys; s = Server(); print(s._process.pid, flush=True); sys.stdin.read()"
    )
    starter = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert starter.stdout is not None
    started = psutil.Process(int(starter.stdout.readline()))
    starter.send_signal(signal.SIGKILL)
    starter.communicate()
    started.wait(30)


def test_a_server_that_does_not_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_DATABASE_CONNECTION_URL", "sqlite+aiosqlite:////nowhere/prefect.db")
    started = server.Server()
    with pytest.raises(RuntimeError, match="Prefect's temporary server did not start"):
        started.address()
    started.stop()


def test_a_named_server_that_answers_is_used() -> None:
    started = server.Server()
    env = os.environ | {"PREFECT_API_URL": started.address()}
    code = "from flows.server import temporary\nwith temporary() as started: print(started)"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    started.stop()
    assert done.stdout == "None\n", done.stderr
