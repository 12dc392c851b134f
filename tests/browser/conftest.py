"""A Prefect server and an MLflow server as a team would start them, two retrained days in them, and a browser."""

import datetime
import json
import os
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
DAYS = (datetime.date(2024, 1, 3), datetime.date(2024, 1, 4))
# The small shop that the integration tests retrain.
_SHOP = runpy.run_path(str(ROOT / "tests" / "integration" / "conftest.py"))
shop, write_config = _SHOP["shop"], _SHOP["write_config"]
expect.set_options(timeout=120_000)


@dataclass(frozen=True)
class Team:
    """Where the pages are, and the results of `DAYS` as `dayline backfill --json` printed them."""

    prefect: str
    mlflow: str
    results: list[dict[str, Any]]


class Server:
    """A server in a session of its own, so that it goes with all its processes; `wait` until it answers."""

    def __init__(self, home: Path, health: str, program: str, *arguments: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = str(free.getsockname()[1])
        self.uri, self._health, self._log = f"http://127.0.0.1:{port}", health, home / f"{program}.log"
        # They are not what is measured, and start sooner without.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
        environment |= {"PREFECT_HOME": str(home), "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        # Prefect's pages ask what this names, not the server that they come from.
        environment["PREFECT_API_URL"] = f"{self.uri}/api"
        environment["PATH"] = f"{BIN}{os.pathsep}{environment['PATH']}"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [str(BIN / program), *arguments, "--host", "127.0.0.1", "--port", port],
                cwd=home,
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait(self) -> None:
        deadline = time.monotonic() + 500
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(self._log.read_text())
            time.sleep(0.2)

    def stop(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(self.uri + self._health, timeout=5) as response:
                return response.status == 200
        except OSError:
            return False


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium; the tests skip where there is none.

    Playwright keeps an event loop running, in which Prefect's calls become coroutines: no other module may see it.
    """
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium on the PATH; on Debian: apt-get install chromium")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def team(
    browser: Browser,
    write_config: Callable[[Path], Path],
    prefect_home: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Team]:
    """Both servers, filled by one real backfill. It asks for the browser so as to skip before anything is started."""
    home = tmp_path_factory.mktemp("team")
    shutil.copytree(prefect_home, home, dirs_exist_ok=True)
    prefect = Server(home, "/api/health", "prefect", "server", "start")
    mlflow = Server(home, "/health", "mlflow", "server", "--workers", "1")
    try:
        config = write_config(home)
        prefect.wait()
        mlflow.wait()
        results = _backfill(config, f"{prefect.uri}/api", mlflow.uri)
        yield Team(prefect.uri, mlflow.uri, results)
    finally:
        prefect.stop()
        mlflow.stop()


def _backfill(config: Path, api: str, tracking: str) -> list[dict[str, Any]]:
    days = ["--from", str(DAYS[0]), "--to", str(DAYS[1])]
    changes = ["--set", f"tracking.uri={tracking}", "--set", "train.num_epochs=1"]
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from flows.cli import main; main()",
            "backfill",
            str(config),
            *days,
            *changes,
            "--json",
        ],
        cwd=ROOT,
        env=os.environ | {"PREFECT_API_URL": api},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A fresh page; in the end no answer may have been an error of a server, and no other host may have been asked."""
    context = browser.new_context(viewport={"width": 1600, "height": 1000})
    # MLflow's assistant opens by itself on a first visit, and takes a third of the page.
    context.add_init_script(
        "localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true');"
        "localStorage.setItem('mlflow.assistant.panelOpen_v1', 'false')"
    )
    opened = context.new_page()
    asked, failed = [], []
    opened.on("request", lambda request: asked.append(request.url))
    opened.on("response", lambda response: failed.append(response.url) if response.status >= 500 else None)
    yield opened
    context.close()
    assert failed == []
    assert [url for url in asked if not url.startswith(("http://127.0.0.1:", "data:", "blob:"))] == []
