"""SIGKILL of the flow, of a rank, of torchrun and of both servers, in any stage of every pipeline.

What is left behind is no process, nothing half-written and nothing that Prefect or MLflow shows as running, and a rerun
comes to the same result. A ranking model is retrained for two days, the second of which continues the release of the
first: what each has learned from and the releases are the same too. `DAYLINE_KILLS=25` kills as often as that; else it
is a few times. `DAYLINE_KILL_SEED` draws others.
"""

import contextlib
import datetime
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from mlflow import MlflowClient

from recsys_core import registry
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


ROUNDS = [(pipeline, kills) for pipeline, rounds in draw().items() for kills in rounds]


@dataclass
class Place:
    """A config with a home for its runs, a Prefect home, and a mark that all processes of its commands carry."""

    config: Path
    mark: str
    changes: tuple[str, ...] = ()
    days: tuple[datetime.date, ...] = (DAY,)

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
        with contextlib.closing(sqlite3.connect(self.home / "prefect" / "prefect.db")) as database:
            count = "select count(*) from {} where state_type in ('RUNNING', 'PENDING', 'CANCELLING')"
            tables = ("flow_run", "task_run")
            return {table: database.execute(count.format(table)).fetchone()[0] for table in tables}

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
        environment = {"PREFECT_HOME": str(place.home / "prefect"), "PREFECT_API_URL": ""}
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


@pytest.fixture(scope="module")
def server(start_mlflow: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    return start_mlflow(tmp_path_factory.mktemp("killed"))


@pytest.fixture(scope="module")
def ranked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows whose label is mostly whether two ids are of one kind."""
    folder, rng = tmp_path_factory.mktemp("ranking") / "data", np.random.default_rng(0)
    for split, num_rows in (("train", 2_000), ("valid", 300), ("test", 401)):
        user, item = rng.integers(0, 20, num_rows), rng.integers(0, 30, num_rows)
        label = (user % 2 == item % 2) ^ (rng.random(num_rows) < 0.1)
        (folder / split).mkdir(parents=True)
        table = pa.table({"label": label, "user": user, "item": item, "age": rng.random(num_rows)})
        pq.write_table(table, folder / split / "part-0.parquet", row_group_size=300)
    return folder


@pytest.fixture(scope="module")
def write(
    write_config: Callable[[Path], Path],
    write_ctr_config: Callable[[Path], Path],
    prefect_home: Path,
    ranked: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., Place]:
    def ranking(home: Path) -> Path:
        home.mkdir(parents=True, exist_ok=True)
        sections = {
            "name": "pairs",
            "run_root": str(home / "runs"),
            "data": {"kind": "splits", "source": str(ranked), "day": DAY},
            "ranking": {"group": "user"},
            "features": {
                "embedding_dim": 8,
                "query": [{"kind": "id", "name": "user", "num_embeddings": 32}, {"kind": "raw", "name": "age"}],
                "item": [{"kind": "id", "name": "item", "num_embeddings": 64}],
            },
            "model": {"kind": "dlrm", "bottom_hidden": [8], "top_hidden": [16], "concat_pooled": True},
            "train": {"batch_size": 100, "num_epochs": 4, "checkpoint_every_steps": 10},
            "tracking": {"system_metrics": False},
        }
        (home / "pairs.yaml").write_text(yaml.safe_dump(sections))
        return home / "pairs.yaml"

    def make(pipeline: str, *changes: str) -> Place:
        home = tmp_path_factory.mktemp(pipeline)
        shutil.copytree(prefect_home, home / "prefect")
        written = {"retrieval": write_config, "ranking": ranking, "daily-ranking": write_ctr_config}[pipeline](home)
        if pipeline == "daily-ranking":
            return Place(written, uuid.uuid4().hex, ("gate.minimum=0.5", *changes), DAYS)
        return Place(written, uuid.uuid4().hex, changes)

    return make


@pytest.fixture(scope="module")
def undisturbed(write: Callable[..., Place]) -> Callable[[str], tuple[list[dict[str, Any]], list[dict[str, Any]]]]:
    """Run a pipeline undisturbed, once; return each day's result, and the releases."""
    done: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]] = {}

    def run(pipeline: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        if pipeline not in done:
            place = write(pipeline)
            results = Command(place).results()
            assert [stage for result in results for stage in result["stages"]] == named(STAGES[pipeline])
            assert not any(place.left_running().values())
            done[pipeline] = results, released(f"sqlite:///{place.home}/runs/mlflow.db", place.name)
        return done[pipeline]

    return run


def named(stages: Iterable[str]) -> list[str]:
    """Return the stages as each day calls them."""
    return [stage.removesuffix(SECOND) for stage in stages]


def released(uri: str, name: str) -> list[dict[str, Any]]:
    """Return what there is to say of each release, whatever it is called, newest first."""
    fields = {"version", "day", "metrics", "ground_truth_digest", "checked", "live", "previous", "rolled_back"}
    fields |= {"replaced", "learned"}
    return [info.model_dump(include=fields) for info in registry.releases(uri, name)]


def what_counts(result: dict[str, Any]) -> dict[str, Any]:
    """Leave out what differs from run to run: speed, times and places."""
    return {key: value for key, value in result["metrics"].items() if key != "examples_per_second"} | {
        key: result.get(key) for key in ("day", "release", "decision", "gate", "loss", "num_steps", "learned")
    }


@contextlib.contextmanager
def restarting(server: Any) -> Iterator[None]:
    """Inside, the server that was killed is started again; outside, it answers."""
    starting = threading.Thread(target=server.start)
    starting.start()
    try:
        yield
    finally:
        starting.join()


@pytest.mark.parametrize(
    ("pipeline", "kills"),
    ROUNDS,
    ids=[f"{pipeline}-" + "-".join(f"{k.victim}.{k.stage}" for k in kills) for pipeline, kills in ROUNDS],
)
@pytest.mark.timeout(3_000)
def test_whatever_is_killed_in_any_stage_the_result_is_the_same_and_nothing_is_left(
    pipeline: str,
    kills: list[Kill],
    undisturbed: Callable[[str], tuple[list[dict[str, Any]], list[dict[str, Any]]]],
    write: Callable[..., Place],
    server: Any,
) -> None:
    expected, releases = undisturbed(pipeline)
    name = f"killed-{uuid.uuid4().hex[:8]}"
    place = write(pipeline, f"tracking.uri={server.uri}", "tracking.wait_seconds=400", f"name={name}")
    with contextlib.ExitStack() as starting:
        command = Command(place)
        for kill in kills:
            command.begun(kill.stage)
            if kill.victim == "mlflow":
                starting.close()
                server.stop()
                starting.enter_context(restarting(server))
                continue
            command.one(kill.victim, STAGES[pipeline][kill.stage][0]).send_signal(signal.SIGKILL)
            if kill.victim == "flow":
                assert command.wait() == -signal.SIGKILL
                command = Command(place)
        results = command.results()
    assert [what_counts(result) for result in results] == [what_counts(result) for result in expected]
    assert released(server.uri, name) == releases
    assert len(releases) == (0 if pipeline == "ranking" else len(place.days))
    assert place.left_running() == {"flow_run": 0, "task_run": 0}
    for day in place.days:
        (run,) = (place.home / "runs" / name).glob(f"{day}/*")
        assert not [path for path in run.rglob("*") if path.name.endswith(".partial")]
        assert not list(run.glob("mlflow.*"))
    client = MlflowClient(server.uri)
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    tracked = client.search_runs([experiment.experiment_id])
    assert {one.info.status for one in tracked} == {"FINISHED"}
    stages = sorted(one.data.tags["dayline.stage"] for one in tracked if "dayline.stage" in one.data.tags)
    assert stages == sorted(named(STAGES[pipeline]))
    for result in results:
        loss = result["loss"] if pipeline == "ranking" else result["metrics"]["loss"]
        assert client.get_run(result["mlflow_run_id"]).data.metrics["loss"] == loss


def test_a_training_that_is_killed_after_a_checkpoint_goes_on_from_there(
    write: Callable[..., Place],
) -> None:
    # Epochs enough that training goes on for some seconds after its first checkpoint, on a fast machine too.
    place = write("ranking", "train.num_epochs=400")
    command = Command(place)
    command.one("rank", "rank_train")
    command._until(lambda: next(place.home.glob("runs/*/*/*/.train.partial/steps/step-*"), None), "a checkpoint")
    command.flow.send_signal(signal.SIGKILL)
    assert command.wait() == -signal.SIGKILL
    (run,) = place.home.glob(f"runs/pairs/{DAY}/*")
    assert {path.parent.name for path in run.glob("*/manifest.json")} == {"prepare"}
    kept = max(int(path.name.partition("-")[2]) for path in (run / ".train.partial" / "steps").glob("step-*"))
    # The next command is for another run, and ends what was abandoned all the same.
    other = write("ranking")
    other.config.write_text(other.config.read_text().replace(str(other.home / "runs"), str(place.home / "runs")))
    other = Place(other.config, other.mark, ("seed=7",))
    shutil.rmtree(other.home / "prefect")
    (other.home / "prefect").symlink_to(place.home / "prefect")
    assert place.left_running()["flow_run"] == 1
    Command(other).results()
    assert place.left_running() == {"flow_run": 0, "task_run": 0}
    client = MlflowClient(f"sqlite:///{place.home}/runs/mlflow.db")
    experiment = client.get_experiment_by_name("pairs")
    assert experiment is not None
    statuses = [one.info.status for one in client.search_runs([experiment.experiment_id])]
    assert set(statuses) == {"FINISHED", "KILLED"}
    again = Command(place)
    again.one("rank", "rank_train")
    events = run / "train.events.jsonl"
    steps = again._until(lambda: [s for s in _steps(events) if s] or None, "training's steps")
    assert steps[0] > kept
    again.process.terminate()
    assert again.wait() == 128 + signal.SIGTERM
    assert place.left_running() == {"flow_run": 0, "task_run": 0}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_command_that_is_to_stop_while_its_server_starts_leaves_nothing(
    write: Callable[..., Place], number: signal.Signals
) -> None:
    place = write("ranking")
    command = Command(place)
    command.one("prefect", None)
    command.process.send_signal(number)
    assert command.wait() == 128 + number
    assert "Traceback" not in command.output.read_text()
    assert not (place.home / "runs").exists()


def _steps(events: Path) -> list[int]:
    if not events.exists():
        return []
    return [json.loads(line)["step"] for line in events.read_bytes().rpartition(b"\n")[0].splitlines()]
