"""SIGKILL of the flow, of a rank, of torchrun and of both servers, in any stage of every pipeline.

What is left behind is no process, nothing half-written and nothing that Prefect or MLflow shows as running, and a rerun
comes to the same result. A ranking model is retrained for two days, the second of which continues the release of the
first: what each has learned from and the releases are the same too. `DAYLINE_KILLS=25` kills as often as that; else it
is a few times. `DAYLINE_KILL_SEED` draws others.
"""

import contextlib
import dataclasses
import json
import shutil
import signal
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from killing import DAY, DAYS, SECOND, STAGES, Command, Kill, Place, draw
from mlflow import MlflowClient

from recsys_core import registry

ROUNDS = [(pipeline, kills) for pipeline, rounds in draw().items() for kills in rounds]


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
def undisturbed(
    write: Callable[..., Place], prefect_server: str
) -> Callable[[str], tuple[list[dict[str, Any]], list[dict[str, Any]]]]:
    """Run a pipeline undisturbed, once; return each day's result, and the releases."""
    done: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]] = {}

    def run(pipeline: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        if pipeline not in done:
            place = dataclasses.replace(write(pipeline), api=prefect_server)
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
    place = write("ranking", "train.num_epochs=400", "launch.num_ranks=1")
    command = Command(place)
    command._until(lambda: next(place.home.glob("runs/*/*/*/.train.partial/steps/step-*"), None), "a checkpoint")
    command.flow.send_signal(signal.SIGKILL)
    assert command.wait() == -signal.SIGKILL
    (run,) = place.home.glob(f"runs/pairs/{DAY}/*")
    assert {path.parent.name for path in run.glob("*/manifest.json")} == {"prepare"}
    kept = max(int(path.name.partition("-")[2]) for path in (run / ".train.partial" / "steps").glob("step-*"))
    # The next command is for another run, and ends what was abandoned all the same.
    other = write("ranking")
    other.config.write_text(other.config.read_text().replace(str(other.home / "runs"), str(place.home / "runs")))
    other = Place(other.config, other.mark, ("seed=7", "launch.num_ranks=1"))
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
    events = run / "train.events.jsonl"
    events.unlink()
    again = Command(place)
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
