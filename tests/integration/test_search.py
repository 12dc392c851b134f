"""A search, its trials and what a kill leaves of it, on a real Prefect server and a real MLflow store."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from mlflow import MlflowClient
from optuna.trial import TrialState

from flows import search as searches
from flows.search import search
from recsys_core import config as configs
from recsys_core import tracking

DAYLINE = Path(sys.executable).with_name("dayline")
pytestmark = pytest.mark.usefixtures("prefect_server", "kept_ranks")
SPACE = {
    "train.dense_optimizer.learning_rate": {"kind": "float", "low": 1e-4, "high": 1e-2, "log": True},
    "model.top_hidden": {"kind": "choice", "values": [[8], [16, 8]]},
    "train.batch_size": {"kind": "int", "low": 50, "high": 200},
}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A config whose rows' label is mostly whether two ids are of one kind."""
    rng = np.random.default_rng(0)
    for split, num_rows in (("train", 1_500), ("valid", 500), ("test", 300)):
        user, item = rng.integers(0, 20, num_rows), rng.integers(0, 30, num_rows)
        label = ((user % 2 == item % 2) ^ (rng.random(num_rows) < 0.1)).astype(np.int64)
        (tmp_path / "data" / split).mkdir(parents=True)
        table = pa.table({"label": label, "user": user, "item": item, "age": rng.random(num_rows)})
        pq.write_table(table, tmp_path / "data" / split / "part-0.parquet", row_group_size=300)
    sections = {
        "name": "pairs",
        "run_root": str(tmp_path / "runs"),
        "data": {"kind": "splits", "source": str(tmp_path / "data"), "day": "2024-01-01"},
        "ranking": {"label": "label"},
        "features": {
            "embedding_dim": 8,
            "query": [{"kind": "id", "name": "user", "num_embeddings": 32}, {"kind": "raw", "name": "age"}],
            "item": [{"kind": "id", "name": "item", "num_embeddings": 64}],
        },
        "model": {"kind": "dlrm", "bottom_hidden": [8], "top_hidden": [16]},
        "train": {
            "num_epochs": 3,
            "evaluate_every_steps": 5,
            "sparse_optimizer": {"kind": "adagrad", "learning_rate": 0.2},
        },
        "tracking": {"system_metrics": False},
    }
    (tmp_path / "pairs.yaml").write_text(yaml.safe_dump(sections))
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(SPACE))
    return tmp_path / "pairs.yaml"


def _search(config: Path, num_trials: int, **arguments: Any) -> Any:
    return search(str(config), str(config.with_name("space.yaml")), num_trials, **arguments)


def test_trials_are_children_of_the_search_and_the_best_is_a_config(config: Path):
    result = _search(config, 2)
    assert [one.state for one in result.trials] == ["complete"] * 2
    assert result.metric == "auc"
    assert result.best.value == max(one.value for one in result.trials)
    loaded = configs.load(result.config)
    assert loaded.train.batch_size == result.best.params["train.batch_size"]
    assert list(loaded.model.model_dump()["top_hidden"]) == result.best.params["model.top_hidden"]
    store = MlflowClient(tracking.location(loaded.tracking, loaded.run_root))
    parents = {store.get_run(one.mlflow_run_id).data.tags["mlflow.parentRunId"] for one in result.trials}
    assert parents == {result.mlflow_run_id}
    parent = store.get_run(result.mlflow_run_id)
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["best"] == pytest.approx(result.best.value)
    pictures = {file.path for file in store.list_artifacts(result.mlflow_run_id, "plots")}
    assert pictures == {"plots/search_history.png"}
    # What the trials share was done once, and a search that has ended is not done again but continued.
    assert len(list((config.parent / "runs" / "pairs" / "cache" / "prepare").glob("*.json"))) == 1
    more = _search(config, 3)
    assert more.trials[:2] == result.trials
    assert len(more.trials) == 3
    assert more.mlflow_run_id == result.mlflow_run_id


class _Second(optuna.pruners.BasePruner):
    """Prunes the second trial."""

    def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
        return trial.number == 1


def test_a_trial_that_does_badly_ends_early(config: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(searches._PRUNERS, "median", _Second)
    result = _search(config, 2)
    assert [one.state for one in result.trials] == ["complete", "pruned"]
    pruned = result.trials[1]
    assert pruned.value is not None
    loaded = configs.load(config)
    tags = MlflowClient(tracking.location(loaded.tracking, loaded.run_root)).get_run(pruned.mlflow_run_id).data.tags
    assert tags["pruned_at_step"] == "5"


def test_values_that_do_not_go_together_end_their_trial_alone(config: Path):
    together = {
        "train.early_stopping_patience": {"kind": "choice", "values": [None, 2]},
        "train.evaluate_every_steps": {"kind": "choice", "values": [5, None]},
    }
    config.with_name("space.yaml").write_text(yaml.safe_dump(together))
    with pytest.raises(ValueError, match="no trial has ended with a value; .*set evaluate_every_steps or"):
        _search(config, 1, overrides=["train.evaluate_every_epochs=null", "seed=1"], sampler="random")


def test_a_killed_search_goes_on_with_the_values_that_it_was_trying(config: Path):
    command = [str(DAYLINE), "search", str(config), "--space", str(config.with_name("space.yaml"))]
    process = subprocess.Popen([*command, "--trials", "2", "--json"], start_new_session=True, stderr=subprocess.DEVNULL)
    cut_off = _running(config, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    result = _search(config, 2)
    assert [one.state for one in result.trials] == ["complete"] * 2
    assert cut_off in [{key: json.dumps(value) for key, value in one.params.items()} for one in result.trials]


def _running(config: Path, process: subprocess.Popen[bytes]) -> dict[str, str]:
    """Wait until the search's trial trains; return its values."""
    while process.poll() is None:
        for database in (config.parent / "runs" / "pairs").glob("*/*/study.db"):
            if not list(database.parent.parent.glob("*/train.events.jsonl")):
                continue
            study = optuna.load_study(study_name="search", storage=f"sqlite:///{database}")
            for one in study.get_trials(states=(TrialState.RUNNING,)):
                if set(one.params) == set(SPACE):
                    return {key: json.dumps(value) for key, value in searches._params(one).items()}
        time.sleep(0.05)
    raise AssertionError(f"the search ended with {process.returncode} before it was killed")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["train.evaluate_every_steps=null"], "a search is by the split valid"),
        (["train.evaluate_every=3"], "unknown key"),
    ],
)
def test_what_cannot_be_searched_is_refused_before_a_trial(config: Path, changes: list[str], message: str):
    with pytest.raises(ValueError, match=message):
        _search(config, 1, overrides=changes)
    assert not list((config.parent / "runs").glob("pairs/*"))
