"""A ranking day goes live, is replaced and rolled back as a retrieval day is, in a real registry."""

import datetime
import shutil
import subprocess
from pathlib import Path

import mlflow.pyfunc
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys_core import launch, registry, tracking
from recsys_core.artifacts import ExportedRanker, Learned, Release
from recsys_core.ranking import publish

pytestmark = pytest.mark.usefixtures("kept_ranks")
FIRST = datetime.date(2024, 3, 1)
CONFIG = tracking.Config.model_validate({"system_metrics": False})
# Publishes the request in a file. When it would move the aliases it says so, and waits for a line.
PUBLISH = """
import sys
from pathlib import Path
from recsys_core import launch, tracking
from recsys_core.ranking import publish
from recsys_core.registry import aliases
lock = aliases.locked
def locking(*arguments):
    print("looked", flush=True)
    sys.stdin.readline()
    return lock(*arguments)
aliases.locked = locking
request = publish.Request.model_validate_json(Path(sys.argv[1]).read_text())
identity = tracking.Identity(
    name=request.name, day=request.day, run_id=request.run_id, config_hash="h", code_version="v"
)
config = tracking.Config.model_validate({"system_metrics": False})
with tracking.open_run(config, request.run_root, identity, {}) as tracker:
    print(publish.run(request, tracker, launch.Local()).decision, flush=True)
"""


@pytest.fixture(autouse=True)
def _store(make_store, tmp_path):
    make_store(tmp_path)


@pytest.fixture(scope="module")
def made(made_ranking_day, tmp_path_factory):
    """Two days of it."""
    root = tmp_path_factory.mktemp("days")
    days = (FIRST, FIRST + datetime.timedelta(days=1))
    return [made_ranking_day(root / str(day), day, seed) for seed, day in enumerate(days)]


def _request(run_root: Path, made: dict, name: str = "ctr", **changes) -> publish.Request:
    day = made["checkpoint"].day
    fields = {
        "output": run_root / name / str(day) / f"run-{day}" / "publish",
        "config_hash": "h",
        "code_version": "v",
        "config": publish.Config(num_rows=5),
        "name": name,
        "run_id": f"run-{day}",
        "day": day,
        "passed": True,
        "reasons": ("auc is well over the floor",),
        "run_root": run_root,
        **made,
    }
    return publish.Request(**(fields | changes))


def _publish(request: publish.Request) -> Release:
    identity = tracking.Identity(
        name=request.name, day=request.day, run_id=request.run_id, config_hash="h", code_version="v"
    )
    with tracking.open_run(CONFIG, request.run_root, identity, {}) as tracker:
        return publish.run(request, tracker, launch.Local())


def test_days_go_live_and_are_rolled_back(made, tmp_path):
    learned = Learned(first_day=FIRST, last_day=FIRST)
    checkpoint = made[0]["checkpoint"].model_copy(update={"learned": learned})
    request = _request(tmp_path, made[0], checkpoint=checkpoint)
    uri = tracking.location(CONFIG, tmp_path)
    first = _publish(request)
    assert (first.decision, first.version, first.num_rows) == ("live", "1", 50)
    assert {path.name for path in first.path.iterdir()} >= {
        "model.pt",
        "features",
        "examples.parquet",
        "scores.parquet",
    }
    info = registry.champion(uri, "ctr")
    assert info is not None
    assert (info.product, info.learned, info.day, info.checked) == ("ranking", learned, FIRST, True)
    measured = made[0]["evaluation"].metrics
    assert info.metrics["auc"] == pytest.approx(measured.auc)
    assert info.metrics["logloss"] == pytest.approx(measured.logloss)
    assert "gauc" not in info.metrics, "without groups there is none"
    # The next run continues it, or compares with it, also where its run's directory is gone.
    assert registry.load_model(info, uri, tmp_path, ExportedRanker) == request.model
    moved = tmp_path / "moved"
    shutil.move(request.model.path, moved)
    fetched = registry.load_model(info, uri, tmp_path, ExportedRanker)
    shutil.move(moved, request.model.path)
    assert fetched.model_copy(update={"path": request.model.path}) == request.model
    assert _publish(_request(tmp_path, made[1])).version == "2"
    assert [(one.version, one.live, one.previous) for one in registry.releases(uri, "ctr", "ranking")] == [
        (2, True, False),
        (1, False, True),
    ]
    mlflow.set_tracking_uri(uri)
    loaded = mlflow.pyfunc.load_model("models:/ctr@champion")
    rows = pq.read_table(made[1]["data"].folders("test")[0]).drop_columns(["label", "bought", "position"]).to_pylist()
    whole = [number for number, row in enumerate(rows) if None not in row["tags"]]
    found = loaded.predict(pd.DataFrame([rows[number] for number in whole], dtype=object))["probability"]
    expected = pq.read_table(made[1]["predictions"].rows)["probability"].take(pa.array(whole)).to_numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert registry.rollback(uri, "ctr").version == 1
    with pytest.raises(
        ValueError, match="name: ctr has releases of a ranking model .version 2., and this is a retriev"
    ):
        registry.releases(uri, "ctr", "retrieval")


def test_a_rejected_day_registers_nothing(made, tmp_path):
    release = _publish(_request(tmp_path, made[0], passed=False, reasons=("auc is below the floor",)))
    assert (release.decision, release.version, release.num_rows) == ("rejected", None, 0)
    assert registry.releases(tracking.location(CONFIG, tmp_path), "ctr") == []


def test_scores_of_another_model_do_not_go_live(made, tmp_path):
    with pytest.raises(AssertionError, match="the scores are of the model that is released"):
        _publish(_request(tmp_path, made[0], predictions=made[1]["predictions"]))
    # As if they were: what is served differs from what was measured.
    other = made[1]["predictions"].model_copy(update={"model_digest": made[0]["model"].digest})
    with pytest.raises(ValueError, match="version 1: it does not serve, so it is not made live: .*another probability"):
        _publish(_request(tmp_path, made[0], predictions=other))
    assert [info.checked for info in registry.releases(tracking.location(CONFIG, tmp_path), "ctr")] == [False]


def test_two_processes_that_publish_at_once_leave_one_champion_and_a_true_chain(made, tmp_path, forking):
    requests = [_request(tmp_path, day) for day in made]
    tracking.check(CONFIG, tmp_path)
    processes = []
    for number, request in enumerate(requests):
        file = tmp_path / f"request-{number}.json"
        file.write_text(request.model_dump_json())
        processes.append(forking.start(["-c", PUBLISH, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE))
    for process in processes:
        assert process.stdout.readline() == "looked\n", "both have found nothing live"
    decisions = [process.communicate("\n")[0].strip() for process in processes]
    uri = tracking.location(CONFIG, tmp_path)
    older, newer = (
        next(info for info in registry.releases(uri, "ctr") if info.run_id == one.run_id) for one in requests
    )
    assert decisions[1] == "live"
    assert (newer.live, older.live) == (True, False)
    if decisions[0] == "live":  # it took the lock first
        assert (older.previous, older.replaced, newer.replaced) == (True, 0, older.version)
    else:
        assert (decisions[0], older.previous, older.replaced, newer.replaced) == ("registered", False, None, 0)
    assert set(tracking.connect(uri).get_registered_model("ctr").aliases) == {"champion"} | (
        {"previous"} if older.previous else set()
    )
