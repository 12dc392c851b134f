"""Against a real MLflow server: a run and its release, the model as a service, and a server that goes away."""

import datetime
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from recsys_core import plots, registry, tracking
from recsys_core.registry import publish
from recsys_core.tracking import records

DAY = datetime.date(2024, 3, 1)
BIN = Path(sys.executable).parent
ENVIRONMENT = os.environ | {
    "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
}


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Program:
    """A server in a session of its own, so that it goes with all its processes."""

    def __init__(self, directory: Path, health: str, *arguments: str) -> None:
        self.uri = f"http://127.0.0.1:{_free_port()}"
        self.log = directory / "log"
        command = [str(BIN / "mlflow"), *arguments, "--host", "127.0.0.1", "--port", self.uri.rpartition(":")[2]]
        with self.log.open("w") as log:
            self._process = subprocess.Popen(
                command, cwd=directory, env=ENVIRONMENT, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + 120
        while not self._answers(health):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(self.log.read_text())
            time.sleep(0.2)

    def _answers(self, health: str) -> bool:
        try:
            with urllib.request.urlopen(self.uri + health, timeout=5) as response:
                return response.status == 200
        except OSError:
            return False

    def stop(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def _server(directory: Path) -> Program:
    store = f"sqlite:///{directory}/mlflow.db"
    folders = ["--backend-store-uri", store, "--artifacts-destination", str(directory / "artifacts")]
    return Program(directory, "/health", "server", "--workers", "1", *folders)


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Program]:
    program = _server(tmp_path_factory.mktemp("server"))
    yield program
    program.stop()


@pytest.fixture(scope="module")
def run_root(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


def _identity(run_id: str) -> tracking.Identity:
    return tracking.Identity(name="shop", day=DAY, run_id=run_id, config_hash="h", code_version="v")


def _config(uri: str) -> tracking.Config:
    return tracking.Config.model_validate({"uri": uri, "system_metrics_interval_seconds": 1, "check_seconds": 10})


@pytest.fixture(scope="module")
def released(server, run_root, made_day):
    """A day's whole record: inputs, curve, metrics, pictures, and the bundle."""
    made = made_day(run_root / "shop" / str(DAY) / "a1", DAY, 8)
    held_out = made.pop("held_out")
    tracking.check(_config(server.uri), run_root)
    with tracking.open_run(_config(server.uri), run_root, _identity("a1"), {"train": {"num_epochs": 2}}) as run:
        run.log_dataset(made["data"], "/log")
        run.log_metrics(records.metrics(made["data"], made["checkpoint"], held_out, made["evaluation"]))
        run.log_figure(plots.loss_curve(made["checkpoint"]), "loss")
        run.log_figure(plots.hit_rate_by_k(made["evaluation"]), "hit_rate_by_k")
        request = publish.Request(
            output=run_root / "shop" / str(DAY) / "a1" / "publish",
            config_hash="h",
            code_version="v",
            config=publish.Config.model_validate({}),
            name="shop",
            run_id="a1",
            passed=True,
            reasons=(),
            run_root=run_root,
            **made,
        )
        release = publish.run(request, run)
    assert release.decision == "live"
    return run, request


def test_the_run_is_all_there(server, released):
    run, _ = released
    page = f"{server.uri}/#/experiments/{run.experiment_id}/runs/{run.mlflow_run_id}?workflowType=machine_learning"
    assert run.url == page
    found = run.client.get_run(run.mlflow_run_id)
    assert found.info.status == "FINISHED"
    assert found.data.params == {"train.num_epochs": "2"}
    assert found.data.metrics["exact/hit_rate_at_50"] > found.data.metrics["popularity/hit_rate_at_50"]
    assert {file.path for file in run.client.list_artifacts(run.mlflow_run_id, "plots")} == {
        "plots/loss.png",
        "plots/hit_rate_by_k.png",
    }
    assert [entry.dataset.name for entry in found.inputs.dataset_inputs] == ["preprocess"]
    assert len(found.outputs.model_outputs) == 1


def test_the_release_comes_back_from_the_server(server, run_root, released):
    _, request = released
    info = registry.champion(server.uri, "shop")
    assert info is not None
    assert (info.version, info.day, info.checked) == (1, DAY, True)
    shutil.move(request.model.path, request.model.path.with_name("moved"))
    fetched = registry.load_model(info, server.uri, run_root)
    shutil.move(request.model.path.with_name("moved"), request.model.path)
    assert fetched.digest == request.model.digest


def test_the_release_is_served(server, released, tmp_path, monkeypatch):
    monkeypatch.setitem(ENVIRONMENT, "MLFLOW_TRACKING_URI", server.uri)
    service = Program(tmp_path, "/ping", "models", "serve", "-m", "models:/shop@champion", "--env-manager", "local")
    try:
        answer = _ask(service.uri, {"segment": "s1", "age": None, "history__item_id": [7, 17]}, k=3)
        assert len(answer["predictions"][0]["item_ids"]) == 3
        with pytest.raises(urllib.error.HTTPError) as caught:
            _ask(service.uri, {"segment": "s1", "age": "old", "history__item_id": []}, k=3)
        assert caught.value.code == 400
        told = json.loads(caught.value.read())
        assert told["message"].startswith("column 'age' takes int64: ")
        assert "stack_trace" not in told
        everything = {"segment": "s1", "age": None, "history__item_id": [7], "exclude": [17]}
        items = _ask(service.uri, everything, k=10**9)["predictions"][0]["item_ids"]
        assert len(items) == 58
        assert not {7, 17} & {*items}
    finally:
        service.stop()


def _ask(uri: str, row: dict, k: int) -> dict:
    body = json.dumps({"dataframe_records": [row], "params": {"k": k}}).encode()
    request = urllib.request.Request(f"{uri}/invocations", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)


def test_a_server_that_goes_away_does_not_hide_the_error(run_root, tmp_path):
    lost = _server(tmp_path)

    def fail() -> None:
        with tracking.open_run(_config(lost.uri), run_root, _identity("b2"), {}):
            lost.stop()
            raise ValueError("the disk is full")

    with pytest.raises(ValueError, match="the disk is full") as caught:
        fail()
    assert any("MLflow was not told" in note for note in caught.value.__notes__)
    with pytest.raises(ValueError, match="MLflow does not answer there"):
        tracking.check(_config(lost.uri), run_root)
