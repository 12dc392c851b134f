"""Commands that are forked by a kept process end as others do, whatever is killed; and nothing else is left."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

DAYLINE = Path(sys.executable).with_name("dayline")
# The flow begins, and waits or ends where it looks for MLflow.
AWAY = "tracking.uri=http://127.0.0.1:9"


@pytest.fixture
def start(
    write_config: Callable[[Path], Path], prefect_home: Path, tmp_path: Path
) -> Callable[..., subprocess.Popen[str]]:
    config = write_config(tmp_path)
    shutil.copytree(prefect_home, tmp_path / "prefect")
    environment = dict(os.environ)
    environment |= {
        "DAYLINE_KEEP_SECONDS": "600",
        "PREFECT_API_URL": "",
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }

    def start(*arguments: str, seconds: float | None = None) -> subprocess.Popen[str]:
        command: list[Any] = [DAYLINE, *arguments]
        if seconds is not None:
            changes = ["--set", AWAY, "--set", f"tracking.check_seconds={seconds}"]
            command = [DAYLINE, "run", config, "--day", "2024-01-02", *changes]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    return start


@pytest.fixture
def kept(tmp_path: Path) -> Callable[[], list[psutil.Process]]:
    """Return what of the test runs, by its command."""

    def kept(part: str = "") -> list[psutil.Process]:
        found = []
        for one in psutil.process_iter():
            try:
                if one.environ().get("XDG_CACHE_HOME") == str(tmp_path / "cache") and part in " ".join(one.cmdline()):
                    found.append(one)
            except psutil.Error:
                continue
        return found

    return kept


def _flow_of(kept: psutil.Process) -> psutil.Process:
    deadline = time.monotonic() + 900
    while time.monotonic() < deadline:
        for one in kept.children():
            if "flows.server" not in one.cmdline():
                return one
        time.sleep(0.05)
    raise AssertionError("no command was forked")


def test_commands_are_forked_and_end_as_they_would_by_themselves(
    start: Callable[..., subprocess.Popen[str]], kept: Callable[..., list[psutil.Process]]
) -> None:
    try:
        first = start(seconds=0.1)
        _, said = first.communicate()
        assert first.returncode == 1, said
        assert "MLflow does not answer there" in said
        (forking,), (server,) = kept("flows.kept"), kept("flows.server")

        server.kill()
        second = start(seconds=0.1)
        _, again = second.communicate()
        assert second.returncode == 1, again
        assert again.splitlines()[-1] == said.splitlines()[-1]
        assert kept("flows.kept") == [forking]

        killed = start(seconds=900)
        flow = _flow_of(forking)
        killed.kill()
        killed.communicate()
        flow.wait(600)

        stopped = start(seconds=900)
        _flow_of(forking)
        in_use = start("stop")
        assert "in use, and ended afterwards: by the process" in in_use.communicate()[1]
        stopped.terminate()
        _, message = stopped.communicate()
        assert (stopped.returncode, message.splitlines()[-1]) == (
            128 + signal.SIGTERM,
            "stopped by SIGTERM; run it again: finished stages are kept",
        )
        forking.wait(600)
        assert start("stop").wait() == 0
        psutil.wait_procs(kept(), timeout=600)
    finally:
        left = kept()
        for one in left:
            one.kill()
    assert not left
