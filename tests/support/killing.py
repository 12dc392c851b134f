"""Commands that are killed while they run: where they run, which processes they have, and how far they are."""

import contextlib
import datetime
import json
import os
import random
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import psutil
import yaml

from recsys_core.launch.kept import GROUPS

ROOT = Path(__file__).parents[2]
DAY = datetime.date(2024, 1, 2)
# Of the pipeline whose second day continues the release of the first.
DAYS = (datetime.date(2024, 1, 1), DAY)
OVERRIDES = ["launch.num_ranks=2", "launch.threads_per_rank=1"]
NUM_KILLS = int(os.environ.get("DAYLINE_KILLS", "6"))
SEED = os.environ.get("DAYLINE_KILL_SEED", "7")
VICTIMS: tuple[str, ...] = ("flow", "rank", "torchrun", "prefect", "mlflow")
SECOND = " of the second day"
_RUNS = ("flow_run", "task_run")
_DAY: dict[str, tuple[str | None, bool]] = {
    "ingest": (None, False),
    "check": (None, False),
    "prepare": (None, False),
    "train": ("rank_train", True),
    "export": ("rank_export", False),
    "score": ("rank_predict", True),
    "score_champion": ("rank_predict", True),
    "evaluate": (None, False),
    "publish": (None, False),
}
# By stage: the command's name for it, where it has processes of its own, and whether those are torchrun's.
STAGES: dict[str, dict[str, tuple[str | None, bool]]] = {
    "retrieval": {
        "ingest": (None, False),
        "check": (None, False),
        "preprocess": (None, False),
        "train": ("train", True),
        "evaluate": ("evaluate", True),
        "export": ("export", False),
        "embed": ("embed", True),
        "index": ("index", False),
        "hitrate": ("hitrate", False),
        "publish": (None, False),
    },
    "ranking": {
        "prepare": (None, False),
        "train": ("rank_train", True),
        "evaluate": ("rank_evaluate", True),
        "export": ("rank_export", False),
        "predict": ("rank_predict", True),
    },
    "daily-ranking": {stage: how for stage, how in _DAY.items() if stage != "score_champion"}
    | {stage + SECOND: how for stage, how in _DAY.items()},
}


class Kill(NamedTuple):
    stage: str
    victim: str


def possible(pipeline: str, stage: str) -> list[str]:
    """Return the processes that can be killed in a stage."""
    command, ranked = STAGES[pipeline][stage]
    without = {"torchrun"} if command and not ranked else {"rank", "torchrun"} if command is None else set()
    return [victim for victim in VICTIMS if victim not in without]


def draw() -> dict[str, list[list[Kill]]]:
    """Return the kills by pipeline, as rounds of at most one a stage; victims and stages come equally often."""
    chance = random.Random(SEED)
    rounds: dict[str, list[list[Kill]]] = {pipeline: [] for pipeline in STAGES}
    drawn = {pipeline: dict.fromkeys(stages, 0) for pipeline, stages in STAGES.items()}
    turn = dict.fromkeys(VICTIMS, 0)
    left = NUM_KILLS
    while left:
        for pipeline, stages in STAGES.items():
            num = min(left, -(-NUM_KILLS // len(STAGES)), len(stages), 8)
            kills: list[Kill] = []
            seldom = sorted(stages, key=lambda one: (drawn[pipeline][one], chance.random()))[:num]
            for stage in sorted(seldom, key=list(stages).index):
                drawn[pipeline][stage] += 1
                victim = min(possible(pipeline, stage), key=lambda one: (turn[one], chance.random()))
                turn[victim] += 1
                kills.append(Kill(stage, victim))
            left -= num
            if kills:
                rounds[pipeline].append(kills)
    return rounds


@dataclass
class Place:
    """A config with a home for its runs, a Prefect home, and a mark that all processes of its commands carry.

    Its commands start a Prefect server of their own, unless `api` is the address of one.
    """

    config: Path
    mark: str
    changes: tuple[str, ...] = ()
    days: tuple[datetime.date, ...] = (DAY,)
    api: str = ""

    @property
    def home(self) -> Path:
        return self.config.parent

    @property
    def name(self) -> str:
        """As the config says it."""
        return yaml.safe_load(self.config.read_text())["name"]

    @property
    def arguments(self) -> list[str]:
        """Of the command that does all days."""
        if len(self.days) > 1:
            return ["backfill", str(self.config), "--from", str(self.days[0]), "--to", str(self.days[-1])]
        return ["run", str(self.config), *(["--day", str(DAY)] if "tiny" in self.config.name else [])]

    def has_done(self, stage: str) -> bool:
        """Return whether a stage's artifact is there, or, without a stage's name, the directory of the day's run."""
        name, of_second, _ = stage.partition(SECOND)
        kept = f"{name}/manifest.json" if name else "config.yaml"
        return any(self.home.glob(f"runs/*/{self.days[1 if of_second else 0]}/*/{kept}"))

    def left_running(self) -> dict[str, int]:
        """Return how many runs Prefect shows as running."""
        states = ("RUNNING", "PENDING", "CANCELLING")
        if self.api:
            asked = {"state": {"type": {"any_": states}}}
            counts = {one: httpx.post(f"{self.api}/{one}s/count", json={f"{one}s": asked}) for one in _RUNS}
            return {one: count.raise_for_status().json() for one, count in counts.items()}
        with contextlib.closing(sqlite3.connect(self.home / "prefect" / "prefect.db")) as database:
            count = f"select count(*) from {{}} where state_type in {states}"
            return {table: database.execute(count.format(table)).fetchone()[0] for table in _RUNS}

    def processes(self) -> list[psutil.Process]:
        """Return all processes that began below a command of ours."""
        return [one for one in psutil.process_iter() if self._is_ours(one)]

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            return process.environ().get("DAYLINE_KILL_MARK") == self.mark
        except psutil.Error:
            return False


# What is killed leaves no measurement of what it ran, and all of it is faster without.
_UNMEASURED = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
# Started in the background of a shell or by nohup, a process inherits that these signals are ignored.
_MAIN = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "signal.signal(signal.SIGHUP, signal.SIG_DFL); from flows.cli import main; main()"
)


class Command:
    """`dayline run` or `backfill` in a process of its own."""

    def __init__(self, place: Place) -> None:
        self.place, self.output = place, place.home / "output"
        changes = [word for change in (*OVERRIDES, *place.changes) for word in ("--set", change)]
        arguments = [*place.arguments, "--json", *changes]
        environment = {"PREFECT_HOME": str(place.home / "prefect"), "PREFECT_API_URL": place.api}
        with self.output.open("w") as output, (place.home / "result").open("w") as result:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _MAIN, *arguments],
                cwd=ROOT,
                env=_UNMEASURED | environment | {"DAYLINE_KILL_MARK": place.mark},
                stdout=result,
                stderr=output,
            )
        self.flow = psutil.Process(self.process.pid)

    def wait(self) -> int:
        """Return the exit code of the command, of which nothing is left."""
        exit_code = self.process.wait(1_000)
        _, alive = psutil.wait_procs(self.place.processes(), timeout=300)
        assert not alive, [one.cmdline() for one in alive]
        return exit_code

    def results(self) -> list[dict[str, Any]]:
        """Return the result of each day."""
        code, text = self.wait(), self.output.read_text()
        assert code == 0, text
        for raw in ("Traceback", "urllib3", "Retrying"):
            assert raw not in text
        found = json.loads((self.place.home / "result").read_text())
        return found if isinstance(found, list) else [found]

    def begun(self, stage: str) -> None:
        """Wait until `stage` has begun; of two days in a row that is when the one before it is done."""
        if len(self.place.days) == 1:
            self._until(lambda: f"{stage}: started" in self.output.read_text() or None, stage)
            return
        stages = list(STAGES["daily-ranking"])
        before = stages[stages.index(stage) - 1] if stages.index(stage) else ""
        if before and (SECOND in before) != (SECOND in stage):
            before = SECOND
        self._until(lambda: self.place.has_done(before) or None, stage)

    def one(self, victim: str, stage: str | None) -> psutil.Process:
        """Wait for the victim, and return it."""
        if victim == "flow":
            return self.flow
        return self._until(lambda: self._find(victim, stage), f"{victim} of {stage}")

    def _find(self, victim: str, stage: str | None) -> psutil.Process | None:
        group = next((name for name, stages in GROUPS.items() if stage in stages), None)
        below_torchrun = any(ranked for stages in STAGES.values() for name, ranked in stages.values() if name == stage)
        for process in self.flow.children(recursive=True):
            with contextlib.suppress(psutil.Error):
                line = process.cmdline()
                kind = (
                    "torchrun" if "torch.distributed.run" in line else "prefect" if "flows.server" in line else "rank"
                )
                if kind == "prefect" == victim:
                    return process
                # Ranks take one stage of their group after another; one process alone is not torchrun's.
                is_its = group in line and ("RANK" in process.environ() or kind == "torchrun") == below_torchrun
                if kind == victim and is_its:
                    return process
        return None

    def _until(self, look: Callable[[], Any], what: str) -> Any:
        deadline = time.monotonic() + 900
        while time.monotonic() < deadline and self.process.poll() is None:
            if (found := look()) is not None:
                return found
            time.sleep(0.02)
        raise AssertionError(f"not seen: {what}; the command said: {self.output.read_text()}")
