"""Runs in a real embedded store."""

import datetime
import subprocess
import time

import pytest
from matplotlib.figure import Figure
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from recsys_core import tracking
from recsys_core.progress import Event
from recsys_core.tracking import Config, Identity

DAY = datetime.date(2024, 3, 1)
QUIET = Config(system_metrics=False)


@pytest.fixture(scope="module")
def run_root(tmp_path_factory, make_store):
    return make_store(tmp_path_factory.mktemp("runs"))


@pytest.fixture
def client(run_root):
    return tracking.connect(tracking.location(QUIET, run_root))


def _identity(run_id: str, **fields: str) -> Identity:
    return Identity(name="shop", day=DAY, run_id=run_id, config_hash="h", code_version="v", **fields)


def _runs(client: MlflowClient, condition: str = "") -> list:
    return client.search_runs([client.get_experiment_by_name("shop").experiment_id], condition)


def test_a_day_is_a_parent_with_children(client, run_root):
    params = {"train": {f"key{number}": number for number in range(550)}, "uri": "http://me:secret@h"}
    with tracking.open_run(QUIET, run_root, _identity("a1", flow_run_id="f-1"), params) as run:
        assert run.url is None
        assert client.get_run(run.mlflow_run_id).info.status == "RUNNING"
        with run.stage("train") as stage:
            for step in range(2_500):
                stage.sink(Event(stage="train", step=step, metrics={"loss": 1 / (step + 1)}))
            stage.log_params({"num_ranks": 2})
        run.log_metrics({"exact/hit_rate_at_50": 0.2})
        run.log_figure(Figure(), "empty")
    parent, child = (client.get_run(each.mlflow_run_id) for each in (run, stage))
    assert (parent.info.status, child.info.status) == ("FINISHED", "FINISHED")
    assert (parent.info.run_name, child.info.run_name) == ("2024-03-01 a1", "train")
    assert child.data.tags["mlflow.parentRunId"] == run.mlflow_run_id
    assert len(parent.data.params) == 551
    assert parent.data.params["uri"] == "http://***@h"
    tags = parent.data.tags
    assert (tags["day"], tags["config_hash"], tags["code_version"]) == ("2024-03-01", "h", "v")
    assert tags["prefect.flow_run_id"] == "f-1"
    assert "prefect.deployment" not in tags
    assert len(client.get_metric_history(child.info.run_id, "loss")) == 2_500
    curve = client.get_metric_history(parent.info.run_id, "train/loss")
    assert [point.value for point in curve][:2] == [1.0, 0.5]
    assert curve[-1].step == 2_499
    assert parent.data.metrics["exact/hit_rate_at_50"] == 0.2
    assert [file.path for file in client.list_artifacts(parent.info.run_id, "plots")] == ["plots/empty.png"]
    assert (run_root / "mlartifacts").is_dir()


def test_the_same_run_id_goes_on_with_the_same_runs(client, run_root):
    opened = []

    def fail() -> None:
        with tracking.open_run(QUIET, run_root, _identity("b2"), {"batch": 1}) as run, run.stage("train") as stage:
            opened.extend([run.mlflow_run_id, stage.mlflow_run_id])
            stage.sink(Event(stage="train", step=1, metrics={"loss": 2.0}))
            raise RuntimeError("full disk")

    with pytest.raises(RuntimeError, match="full disk"):
        fail()
    assert [client.get_run(run_id).info.status for run_id in opened] == ["FAILED", "FAILED"]
    with tracking.open_run(QUIET, run_root, _identity("b2"), {"batch": 2, "new": 3}) as second:
        assert client.get_run(second.mlflow_run_id).info.status == "RUNNING"
        with second.stage("train") as again:
            again.sink(Event(stage="train", step=2, metrics={"loss": 1.0}))
    assert (second.mlflow_run_id, again.mlflow_run_id) == tuple(opened)
    run = client.get_run(opened[0])
    assert run.info.status == "FINISHED"
    assert run.data.params == {"batch": "1", "new": "3"}
    assert [point.value for point in client.get_metric_history(opened[1], "loss")] == [2.0, 1.0]
    assert len(_runs(client, "tags.`dayline.run_id` = 'b2'")) == 1


def test_a_cancelled_run_was_killed(client, run_root):
    with pytest.raises(KeyboardInterrupt), tracking.open_run(QUIET, run_root, _identity("c3"), {}) as run:
        raise KeyboardInterrupt
    assert client.get_run(run.mlflow_run_id).info.status == "KILLED"


def test_a_run_that_cannot_be_described_does_not_stay_running(client, run_root):
    with pytest.raises(MlflowException), tracking.open_run(QUIET, run_root, _identity("c4"), {"k" * 300: 1}):
        pass
    assert [run.info.status for run in _runs(client, "tags.`dayline.run_id` = 'c4'")] == ["FAILED"]


def test_runs_of_a_dead_process_are_ended_by_the_next(client, run_root, forking):
    script = (
        "import pathlib, sys, datetime, time\n"
        "from recsys_core import liveness, tracking\n"
        "day = datetime.date(2024, 3, 1)\n"
        "identity = tracking.Identity(name='shop', day=day, run_id='d5', config_hash='h', code_version='v')\n"
        "config = tracking.Config(system_metrics=False)\n"
        "root = pathlib.Path(sys.argv[1])\n"
        "lock = root / identity.directory / tracking.LOCK\n"
        "with liveness.held(lock), tracking.open_run(config, root, identity, {}) as run, run.stage('train'):\n"
        "    print('open', flush=True)\n"
        "    time.sleep(600)\n"
    )
    process = forking.start(["-c", script, str(run_root)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == "open\n"
    with tracking.open_run(QUIET, run_root, _identity("e6"), {}):
        assert len(_runs(client, "attributes.status = 'RUNNING' and tags.`dayline.run_id` = 'd5'")) == 1
    process.kill()
    with tracking.open_run(QUIET, run_root, _identity("e6"), {}):
        (dead,) = _runs(client, "tags.`dayline.run_id` = 'd5'")
        assert dead.info.status == "KILLED"
        (stage,) = _runs(client, f"tags.`mlflow.parentRunId` = '{dead.info.run_id}'")
        assert stage.info.status == "KILLED"


def test_a_run_whose_directory_is_not_here_is_another_machine_s(client, run_root, tmp_path):
    with tracking.open_run(QUIET, run_root, _identity("d6"), {}) as run:
        experiment = run.experiment_id
        tracking._end_orphans(client, experiment, tmp_path, "shop/2024-03-01/other")
        assert client.get_run(run.mlflow_run_id).info.status == "RUNNING"
        tracking._end_orphans(client, experiment, tmp_path, "shop/2024-03-01/d6")
        assert client.get_run(run.mlflow_run_id).info.status == "KILLED"


def test_a_stage_of_a_new_day_is_three_calls(client, run_root, monkeypatch):
    calls: list[str] = []

    def counted(name: str) -> None:
        call = getattr(MlflowClient, name)
        monkeypatch.setattr(MlflowClient, name, lambda *args, **fields: [calls.append(name), call(*args, **fields)][1])

    with tracking.open_run(QUIET, run_root, _identity("c1"), {}) as run:
        for name in [name for name in vars(MlflowClient) if not name.startswith("_")]:
            counted(name)
        with run.stage("train") as stage:
            stage.log_metrics({"rows": 5, "seconds": 1.5})
            stage.tag_at_end({"artifact": "https://me:secret@h/a"})
        monkeypatch.undo()
        with run.stage("train"):
            pass
    assert calls == ["create_run", "log_batch", "set_terminated"]
    child = client.get_run(stage.mlflow_run_id)
    assert child.data.tags["artifact"] == "https://***@h/a"
    assert child.data.metrics == {"rows": 5, "seconds": 1.5}
    assert len(_runs(client, f"tags.`mlflow.parentRunId` = '{run.mlflow_run_id}'")) == 1


def test_points_are_sent_together(client, run_root):
    config = Config(system_metrics=False, flush_seconds=600)
    with tracking.open_run(config, run_root, _identity("f7"), {}) as run:
        run.log_metrics({"kept": 1.0})
        assert "kept" not in client.get_run(run.mlflow_run_id).data.metrics
    assert client.get_run(run.mlflow_run_id).data.metrics == {"kept": 1.0}
    with tracking.open_run(config.model_copy(update={"flush_seconds": 0}), run_root, _identity("f7"), {}) as run:
        run.log_metrics({"sent": 2.0})
        assert client.get_run(run.mlflow_run_id).data.metrics["sent"] == 2.0


def test_system_metrics_and_inputs_are_on_the_parent(client, run_root, made_day, tmp_path):
    made = made_day(tmp_path, DAY, 5)
    config = Config(system_metrics_interval_seconds=1)
    with tracking.open_run(config, run_root, _identity("g8"), {}) as run:
        run.log_dataset(made["data"], "/log")
        deadline = time.monotonic() + 600
        while time.monotonic() < deadline:
            run.flush()
            if "system/cpu_utilization_percentage" in client.get_run(run.mlflow_run_id).data.metrics:
                break
            time.sleep(0.2)
    found = client.get_run(run.mlflow_run_id)
    assert "system/cpu_utilization_percentage" in found.data.metrics
    assert [entry.dataset.digest for entry in found.inputs.dataset_inputs] == [made["data"].digest]


def test_a_deleted_experiment_is_named(client, run_root):
    config = Config(experiment="old", system_metrics=False)
    with tracking.open_run(config, run_root, _identity("h9"), {}) as run:
        pass
    client.delete_experiment(run.experiment_id)
    with (
        pytest.raises(ValueError, match=f"old: it was deleted.*--experiment-id {run.experiment_id}"),
        tracking.open_run(config, run_root, _identity("h9"), {}),
    ):
        pass
