"""SIGKILL of the flow, of torchrun and of a rank: nothing half-written, nobody left behind, and the same result."""

import datetime
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]
DAY = datetime.date(2024, 1, 2)
# Epochs enough that training goes on for some seconds after its first checkpoint, on a fast machine too.
OVERRIDES = ["--set", "launch.num_ranks=2", "--set", "train.num_epochs=12"]


class Command:
    """`dayline run` in a process of its own, with a Prefect home of its own."""

    def __init__(self, config: Path, prefect_home: Path, told: int = subprocess.PIPE) -> None:
        arguments = ["run", str(config), "--day", str(DAY), *OVERRIDES, "--json"]
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from flows.cli import main; main()", *arguments],
            cwd=ROOT,
            env=os.environ | {"PREFECT_HOME": str(prefect_home), "PREFECT_API_URL": ""},
            stdout=subprocess.PIPE,
            stderr=told,
            text=True,
        )
        self.flow = psutil.Process(self.process.pid)

    def wait(self) -> tuple[int, str, str]:
        """Return exit code, stdout and stderr."""
        out, err = self.process.communicate(timeout=500)
        return self.process.returncode, out, err

    def _processes(self, stage: str) -> dict[str, psutil.Process]:
        """Return torchrun and a rank of `stage`, as far as they run."""
        found: dict[str, psutil.Process] = {}
        for process in self.flow.children(recursive=True):
            try:
                line = process.cmdline()
            except psutil.Error:
                continue
            if stage in line:
                found["torchrun" if "torch.distributed.run" in line else "rank"] = process
        return found

    def victims(self, stage: str) -> dict[str, psutil.Process]:
        """Wait for `stage`'s ranks; return who can be killed."""
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline and self.process.poll() is None:
            found = self._processes(stage)
            if len(found) == 2:
                return found | {"flow": self.flow}
            time.sleep(0.02)
        raise AssertionError(f"no ranks of {stage} seen; the command said: {self.wait()}")

    def seen(self, stage: str, victim: str, told: Path) -> tuple[psutil.Process, float] | None:
        """Wait until `stage` runs; return its `victim` and when it began, or None where it has none or has ended."""
        began = None
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline and self.process.poll() is None:
            text = told.read_text(errors="replace")
            if f"{stage}: " in text:
                began = began or time.monotonic()
                if victim == "flow":
                    return self.flow, began
            found = self._processes(stage)
            if victim in found and (victim == "rank" or len(found) == 2):
                return found[victim], began or time.monotonic()
            if f"{stage}: " in text and re.search(rf"^{stage}: .*done", text, re.MULTILINE):
                return None
            time.sleep(0.02)
        return None


@pytest.fixture(scope="module")
def prefect_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("prefect")


@pytest.fixture(scope="module")
def undisturbed(
    write_config: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory, prefect_home: Path
) -> dict:
    code, out, err = Command(write_config(tmp_path_factory.mktemp("undisturbed")), prefect_home).wait()
    assert code == 0, err
    return json.loads(out)


def what_counts(result: dict) -> dict:
    """Leave out what differs from run to run: speed, times and places."""
    return {key: value for key, value in result["metrics"].items() if key != "examples_per_second"} | {
        key: result[key] for key in ("day", "release", "decision", "gate")
    }


def kill(command: Command, stage: str, victim: str, when: Callable[[], bool]) -> None:
    """Kill somebody as soon as `stage` has begun and it is time."""
    victims = command.victims(stage)
    deadline = time.monotonic() + 300
    while not when():
        assert time.monotonic() < deadline, f"{stage} does not come that far"
        time.sleep(0.02)
    victims[victim].send_signal(signal.SIGKILL)


def test_a_run_that_is_killed_again_and_again_ends_as_if_nothing_had_happened(
    undisturbed: dict, write_config: Callable[[Path], Path], tmp_path: Path, prefect_home: Path
) -> None:
    config = write_config(tmp_path)
    run = tmp_path / "runs" / "tiny" / str(DAY) / undisturbed["run_id"]
    told = run / "train.events.jsonl"
    command = Command(config, prefect_home)
    command.victims("train")
    everyone = [command.flow, *command.flow.children(recursive=True)]
    kill(command, "train", "flow", lambda: any((run / ".train.partial" / "steps").glob("step-*")))
    assert command.wait()[0] == -signal.SIGKILL
    _, alive = psutil.wait_procs(everyone, timeout=30)
    assert not alive
    assert {path.parent.name for path in run.glob("*/manifest.json")} == {"ingest", "check", "preprocess"}
    # Prefect gives a stage that lost a process another try, in the same command.
    command = Command(config, prefect_home)
    kill(command, "train", "rank", lambda: told.exists() and '"loss"' in told.read_text())
    kill(command, "embed", "torchrun", lambda: True)
    code, out, err = command.wait()
    assert code == 0, err
    result = json.loads(out)
    assert what_counts(result) == what_counts(undisturbed)
    assert result["stages"]["preprocess"]["cached"]
    assert not list(run.glob(".*.partial"))


@pytest.mark.skipif("DAYLINE_KILL_SEED" not in os.environ, reason="takes ten minutes; DAYLINE_KILL_SEED=1 asks for it")
@pytest.mark.parametrize("victim", ["flow", "torchrun", "rank"])
@pytest.mark.timeout(1800)
def test_whoever_is_killed_at_any_moment_of_any_stage_the_result_is_the_same(
    undisturbed: dict, write_config: Callable[[Path], Path], tmp_path: Path, prefect_home: Path, victim: str
) -> None:
    chance = random.Random(f"{os.environ['DAYLINE_KILL_SEED']} {victim}")
    killed: list[str] = []
    # A moment that comes when a quick stage is over kills nobody: then there is another run.
    for attempt in range(4):
        home = tmp_path / str(attempt)
        home.mkdir()
        killed += _one_run(chance, undisturbed, write_config(home), home, prefect_home, victim)
        if len(killed) >= {"flow": 8, "torchrun": 2, "rank": 4}[victim]:
            return
    raise AssertionError(f"only {killed} were killed")


def _one_run(
    chance: random.Random, undisturbed: dict, config: Path, home: Path, prefect_home: Path, victim: str
) -> list[str]:
    """Kill `victim` once in each stage; return the stages in which it was there to be killed."""
    killed: list[str] = []
    with (home / "told").open("w") as told:
        command = Command(config, prefect_home, told.fileno())
        for stage, figures in undisturbed["stages"].items():
            seen = command.seen(stage, victim, home / "told")
            if seen is None:
                continue
            process, began = seen
            # Any moment of the stage; one before its processes had started stands for their start.
            moment = began + chance.uniform(0, figures["seconds"])
            time.sleep(max(0.0, moment - time.monotonic()))
            everyone = command.flow.children(recursive=True)
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
            killed.append(stage)
            if victim == "flow":
                assert command.wait()[0] in (0, -signal.SIGKILL)
                _, alive = psutil.wait_procs(everyone, timeout=30)
                assert not alive
                told.truncate(0)
                command = Command(config, prefect_home, told.fileno())
        code, out, _ = command.wait()
    assert code == 0, (home / "told").read_text()
    assert what_counts(json.loads(out)) == what_counts(undisturbed)
    run = home / "runs" / "tiny" / str(DAY) / undisturbed["run_id"]
    assert run.is_dir()
    assert not list(run.glob(".*.partial"))
    return killed
