"""A ranking config from labelled tables to scores, on a real Prefect server and a real MLflow store."""

import datetime
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from mlflow import MlflowClient

from flows.ranking import ranking
from recsys_core import tracking
from recsys_core.artifacts import Checkpoint, RankingEvaluation

pytestmark = pytest.mark.usefixtures("prefect_server", "kept_ranks")


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Rows whose label is mostly whether two ids are of one kind."""
    folder = tmp_path_factory.mktemp("ranking")
    rng = np.random.default_rng(0)
    for split, num_rows in (("train", 3_000), ("valid", 500), ("test", 801)):
        user, item = rng.integers(0, 20, num_rows), rng.integers(0, 30, num_rows)
        label = (user % 2 == item % 2) ^ (rng.random(num_rows) < 0.1)
        table = pa.table(
            {
                "label": label,
                "user": [f"u{n}" for n in user],
                "item": item,
                "age": rng.random(num_rows),
                "note": user * 2,
            }
        )
        (folder / "data" / split).mkdir(parents=True)
        pq.write_table(table, folder / "data" / split / "part-0.parquet", row_group_size=300)
    sections = {
        "name": "pairs",
        "run_root": str(folder / "runs"),
        "data": {"kind": "splits", "source": str(folder / "data"), "day": datetime.date(2024, 1, 1)},
        "ranking": {"group": "user"},
        "features": {
            "embedding_dim": 8,
            "query": [{"kind": "id", "name": "user", "num_embeddings": 32}, {"kind": "raw", "name": "age"}],
            "item": [{"kind": "id", "name": "item", "num_embeddings": 64}],
        },
        "model": {"kind": "dlrm", "bottom_hidden": [8], "top_hidden": [16], "concat_pooled": True},
        "train": {
            "batch_size": 100,
            "num_epochs": 40,
            "evaluate_every_steps": 15,
            "early_stopping_patience": 2,
            "keep_best": 2,
            "sparse_optimizer": {"kind": "adagrad", "learning_rate": 0.2},
            "dense_optimizer": {"learning_rate": 0.01},
        },
        "predict": {"reserved_columns": ["note", "label"], "batch_size": 128},
        "tracking": {"system_metrics": False},
    }
    path = folder / "pairs.yaml"
    path.write_text(yaml.safe_dump(sections))
    return path


def test_a_ranking_run_learns_is_recorded_and_is_not_done_twice(config):
    result = ranking(str(config))
    # A tenth of the labels is wrong, so .9 is nearly what can be had.
    assert 0.85 < result.metrics.auc < 0.95
    assert 0.8 < result.metrics.gauc < 0.95
    assert (result.metrics.num_rows, result.split, str(result.day)) == (801, "test", "2024-01-01")
    assert result.num_steps < 40 * 30, "it stops before it has overfitted for long"
    assert result.num_steps % 15 == 0

    scored = pq.read_table(result.predictions)
    source = pq.read_table(config.parent / "data" / "test")
    assert scored.column_names == ["note", "label", "score", "probability"]
    assert scored["note"].to_pylist() == source["note"].to_pylist()
    score, probability = scored["score"].to_numpy(), scored["probability"].to_numpy()
    np.testing.assert_allclose(probability, 1 / (1 + np.exp(-score)), rtol=1e-5)
    label = source["label"].to_numpy(zero_copy_only=False)
    loss = -np.log(np.where(label, probability, 1 - probability)).mean()
    assert loss == pytest.approx(result.metrics.logloss, rel=1e-4)

    client = MlflowClient(tracking.location(tracking.Config(), config.parent / "runs"))
    found = client.get_run(result.mlflow_run_id)
    assert found.data.metrics["auc"] == result.metrics.auc
    assert len(client.get_metric_history(result.mlflow_run_id, "train/valid_auc")) >= 3
    plots = {file.path for file in client.list_artifacts(result.mlflow_run_id, "plots")}
    assert plots == {"plots/loss.png", "plots/roc.png", "plots/calibration.png"}
    evaluation = RankingEvaluation.load(result.artifacts["evaluate"])
    assert (evaluation.metrics, evaluation.num_rows) == (result.metrics, 801)
    signature = json.loads((result.artifacts["export"] / "signature.json").read_text())
    assert [entry["name"] for entry in signature["inputs"]] == [
        "dense",
        "user.values",
        "user.lengths",
        "item.values",
        "item.lengths",
    ]

    again = ranking(str(config))
    assert all(stage.cached for stage in again.stages.values())
    assert again.metrics == result.metrics

    best, second = Checkpoint.load(result.artifacts["train"]).kept
    other = ranking(str(config), overrides=[f"use_step={second.step}"])
    assert [name for name, stage in other.stages.items() if stage.cached] == ["prepare", "train"]
    assert second.value <= best.value
    assert other.metrics.logloss != result.metrics.logloss
