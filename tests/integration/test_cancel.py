"""A run that Prefect's worker has started and Prefect cancels: a last checkpoint, no process left, then on."""

import contextlib
import datetime
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import psutil
import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import StateType
from prefect.states import Cancelling

from recsys_core import checkpoint

pytestmark = pytest.mark.usefixtures("prefect_server")
ROOT = Path(__file__).parents[2]
DAY = datetime.date(2024, 1, 2)
T = TypeVar("T")


def until(look: Callable[[], T | None], what: str, seconds: float = 1_200.0) -> T:
    """Wait until `look` finds something, and return it."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if (found := look()) is not None:
            return found
        time.sleep(0.1)
    raise AssertionError(f"not seen in {seconds:g} seconds: {what}")


@pytest.fixture
def client() -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as connected:
        yield connected


@pytest.fixture
def worker(client: SyncPrefectClient, prefect_server: str, tmp_path: Path) -> Iterator[psutil.Process]:
    """A worker of the pool that the deployment of this repository is for, and the deployment."""
    # What is measured is no matter here, and all of it is faster without.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COV")} | {
        "PREFECT_API_URL": prefect_server,
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    client.create_work_pool(WorkPoolCreate(name="dayline", type="process"))
    deploys = ["--no-prompt", "deploy", "--name", "daily", "--prefect-file", "deployments/prefect.yaml"]
    prefect = [sys.executable, "-m", "prefect"]
    done = subprocess.run([*prefect, *deploys], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    with (tmp_path / "worker.log").open("w") as log:
        command = [*prefect, "worker", "start", "--pool", "dayline", "--limit", "1"]
        started = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
    process = psutil.Process(started.pid)
    yield process
    # Asked to end, a worker may wait for its cancelled run's process, and nothing is to be learnt from how long.
    own = [process, *process.children(recursive=True)]
    started.terminate()
    _, alive = psutil.wait_procs(own, timeout=20)
    for one in alive:
        one.kill()
    psutil.wait_procs(alive)
    started.wait()


class Started:
    """A run of the deployment, as far as training."""

    def __init__(self, client: SyncPrefectClient, worker: psutil.Process, config: Path) -> None:
        self._client, self._worker, self._home = client, worker, config.parent / "runs" / "tiny" / str(DAY)
        deployment = client.read_deployment_by_name("daily-retrain/daily")
        # 5,000 epochs take long enough, and only ranks that are asked to stop write a checkpoint.
        changes = ["launch.num_ranks=2", "train.num_epochs=5000", "train.checkpoint_every_steps=1000000"]
        # Of the 30 s that Prefect gives a run to end, what a busy machine may take.
        changes += ["launch.stop_grace_seconds=27"]
        asked: dict[str, Any] = {"config": str(config), "day": str(DAY), "overrides": changes}
        before = self._events_file()
        self._begun = before.stat().st_mtime if before else 0.0
        self.run_id: UUID = client.create_flow_run_from_deployment(deployment.id, parameters=asked).id
        self.steps = until(self._steps, "training's first steps")
        self.ranks = self._processes("retrieval")

    def _processes(self, word: str) -> list[psutil.Process]:
        """Return those below the worker whose command has the word; some end while they are looked at."""
        found = []
        for one in self._worker.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                found += [one] if word in one.cmdline() else []
        return found

    def _events_file(self) -> Path | None:
        return next(self._home.glob("*/train.events.jsonl"), None)

    def _steps(self) -> list[int] | None:
        state = self._client.read_flow_run(self.run_id).state
        assert state is None or not state.is_final(), state
        # The launcher takes the file of the run before away.
        with contextlib.suppress(FileNotFoundError):
            file = self._events_file()
            if file is None or file.stat().st_mtime == self._begun:
                return None
            lines = file.read_bytes().rpartition(b"\n")[0].splitlines()
            return [step for line in lines if (step := json.loads(line)["step"])] or None
        return None

    def cancel(self) -> int:
        """Cancel it as a person does; return the step of the checkpoint that is there when no process runs any more."""
        self._client.set_flow_run_state(self.run_id, Cancelling())
        until(lambda: self._state() == StateType.CANCELLED or None, "the state Cancelled")
        _, alive = psutil.wait_procs(self.ranks, timeout=600)
        assert not alive
        assert not self._processes("recsys_core")
        (steps,) = self._home.glob("*/.train.partial/steps")
        kept = checkpoint.latest(steps)
        assert kept is not None
        return checkpoint.position(kept).step

    def _state(self) -> StateType | None:
        state = self._client.read_flow_run(self.run_id).state
        return state.type if state else None


def test_a_cancelled_run_stops_in_good_order_and_goes_on_when_started_again(
    client: SyncPrefectClient, worker: psutil.Process, write_config: Callable[[Path], Path], tmp_path: Path
) -> None:
    config = write_config(tmp_path / "days")
    first = Started(client, worker, config)
    # torchrun, its two processes, the ranks that these have forked, and the process for the stages that run alone.
    assert len(first.ranks) == 6
    kept = first.cancel()
    assert kept >= first.steps[-1]
    second = Started(client, worker, config)
    assert second.steps[0] > kept
    assert second.cancel() > kept
