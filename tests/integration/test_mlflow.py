"""Against a real MLflow server: a run and its release, the model as a service, and a server that goes away."""

import datetime
import json
import shutil
import urllib.error
import urllib.request

import pytest

from recsys_core import launch, plots, registry, tracking
from recsys_core.artifacts import ExportedModel
from recsys_core.retrieval import publish
from recsys_core.tracking import records

DAY = datetime.date(2024, 3, 1)


@pytest.fixture(scope="module")
def server(mlflow_server):
    return mlflow_server


@pytest.fixture(scope="module")
def run_root(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


def _identity(run_id: str) -> tracking.Identity:
    return tracking.Identity(name="shop", day=DAY, run_id=run_id, config_hash="h", code_version="v")


def _config(uri: str) -> tracking.Config:
    return tracking.Config.model_validate({"uri": uri, "system_metrics_interval_seconds": 1, "check_seconds": 300})


@pytest.fixture(scope="module")
def released(server, run_root, made_day):
    """A day's whole record: inputs, curve, metrics, pictures, and the bundle."""
    made = made_day(run_root / "shop" / str(DAY) / "a1", DAY, 8)
    held_out = made.pop("held_out")
    tracking.check(_config(server.uri), run_root)
    with tracking.open_run(_config(server.uri), run_root, _identity("a1"), {"train": {"num_epochs": 2}}) as run:
        run.log_dataset(made["data"], "/log")
        run.log_metrics(records.metrics(made["data"], made["checkpoint"], held_out, made["evaluation"]))
        run.log_figure(plots.loss_curve(made["checkpoint"], "sampled softmax"), "loss")
        run.log_figure(plots.hit_rate_by_k(made["evaluation"]), "hit_rate_by_k")
        request = publish.Request(
            output=run_root / "shop" / str(DAY) / "a1" / "publish",
            config_hash="h",
            code_version="v",
            config=publish.Config.model_validate({}),
            name="shop",
            run_id="a1",
            day=DAY,
            passed=True,
            reasons=(),
            mask_seen=True,
            run_root=run_root,
            **made,
        )
        release = publish.run(request, run, launch.Local())
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
    fetched = registry.load_model(info, server.uri, run_root, ExportedModel)
    shutil.move(request.model.path.with_name("moved"), request.model.path)
    assert fetched.digest == request.model.digest


def test_the_release_is_served(server, released, tmp_path, start_mlflow):
    arguments = ["models", "serve", "-m", "models:/shop@champion", "--env-manager", "local"]
    service = start_mlflow(tmp_path, "/ping", *arguments, MLFLOW_TRACKING_URI=server.uri)
    try:
        answer = _ask(service.uri, {"segment": "s1", "age": None, "history__item_id": [7, 17]}, k=3)
        assert len(answer["predictions"][0]["item_ids"]) == 3
        with pytest.raises(urllib.error.HTTPError) as caught:
            _ask(service.uri, {"segment": "s1", "age": "old", "history__item_id": []}, k=3)
        assert caught.value.code == 400
        answer = json.loads(caught.value.read())
        assert answer["message"].startswith("column 'age' takes int64: ")
        assert "stack_trace" not in answer
        everything = {"segment": "s1", "age": None, "history__item_id": [7], "exclude": [17]}
        items = _ask(service.uri, everything, k=10**9)["predictions"][0]["item_ids"]
        assert len(items) == 58
        assert not {7, 17} & {*items}
    finally:
        service.stop()


def _ask(uri: str, row: dict, k: int) -> dict:
    body = json.dumps({"dataframe_records": [row], "params": {"k": k}}).encode()
    request = urllib.request.Request(f"{uri}/invocations", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=600) as response:
        return json.load(response)
