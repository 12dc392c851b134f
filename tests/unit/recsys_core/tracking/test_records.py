"""The pipeline's records as MLflow keeps them."""

import datetime
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from mlflow.utils.validation import _validate_metric_name

from recsys_core.artifacts import Dataset, DayCount, Difference, RetrievalSlice
from recsys_core.tracking import records

DAY = datetime.date(2024, 3, 1)


@pytest.fixture(scope="module")
def made(made_day, tmp_path_factory):
    return made_day(tmp_path_factory.mktemp("run"), DAY, 4)


def test_params_are_dotted_and_lists_of_components_are_numbered():
    config = {
        "train": {"rate": 0.1, "warm": True, "base": None, "hidden": [64, 32], "empty": {}},
        "features": [{"kind": "id", "name": "a"}, {"kind": "raw", "name": "b"}],
        "name": "shop",
        "by table": {"user@id": 1},
    }
    assert records.params(config) == {
        "train.rate": "0.1",
        "train.warm": "true",
        "train.base": "null",
        "train.hidden": "[64, 32]",
        "train.empty": "{}",
        "features.0.kind": "id",
        "features.0.name": "a",
        "features.1.kind": "raw",
        "features.1.name": "b",
        "name": "shop",
        "by table.user_id": "1",
    }


def test_a_long_param_is_cut_and_still_distinguishes_runs():
    first, second = (records.params({"query": "x" * 9_000 + end})["query"] for end in "ab")
    assert len(first) == len(second) == 6_000
    assert first != second
    assert "9001 characters" in first


def test_params_hide_secrets():
    assert records.params({"source": "s3://key:secret@bucket/log"}) == {"source": "s3://***@bucket/log"}
    assert "secret" not in records.params({"sources": ["http://a:secret@b/"]})["sources"]


def test_metrics_have_names_that_mlflow_takes(made):
    evaluation, ahead = made["evaluation"], Difference(value=0.01, low=None, high=None)
    part = RetrievalSlice(
        num_queries=9, num_ground_truth=9, exact=evaluation.exact, champion=None, differences={"mrr@20": ahead}
    )
    parted = evaluation.model_copy(update={"slices": {"tier=1": part}})
    found = records.metrics(made["data"], made["checkpoint"], made["held_out"], parted)
    for name in found:
        _validate_metric_name(name)
    assert found["exact/hit_rate_at_50"] == made["evaluation"].exact.hit_rate["50"]
    assert found["champion/ndcg_at_20"] == made["evaluation"].champion.ndcg["20"]
    assert found["ann_recall_at_200"] == 0.97
    assert found["hit_rate_by_popularity/tail"] == 0.1
    assert (found["loss"], found["held_out_loss"], found["held_out/sampled_recall_at_10"]) == (3.1, 2.5, 0.6)
    difference = evaluation.differences["hit_rate@50"]
    names = ("difference/hit_rate_at_50", "difference_low/hit_rate_at_50", "difference_high/hit_rate_at_50")
    assert [found[name] for name in names] == [difference.value, difference.low, difference.high]
    assert found["slices/tier_1/hit_rate_at_20"] == evaluation.exact.hit_rate["20"]
    assert found["slices/tier_1/difference/mrr_at_20"] == 0.01
    assert "slices/tier_1/difference_low/mrr_at_20" not in found
    alone = parted.model_copy(update={"champion": None})
    fewer = records.metrics(made["data"], made["checkpoint"], made["held_out"], alone)
    assert {name for name in found if name not in fewer} == {name for name in found if name.startswith("champion/")}


def test_training_data_is_an_input_with_its_schema_and_rows(made):
    dataset = SimpleNamespace(**records.dataset_input(made["data"], "https://me:secret@example.org/log.zip"))
    assert (dataset.name, dataset.digest, dataset.source_type) == ("preprocess", made["data"].digest, "https")
    assert len(dataset.digest) <= 36
    assert "secret" not in dataset.source
    columns = {column["name"]: column["type"] for column in json.loads(dataset.schema)["mlflow_colspec"]}
    assert columns["segment"] == "string"
    assert columns["history__item_id"].startswith("list<")
    assert json.loads(dataset.profile)["ground_truth_day"] == "2024-03-02"


def test_the_log_is_an_input_with_its_days(tmp_path):
    days = tuple(
        DayCount(day=DAY + datetime.timedelta(n), num_interactions=5, num_users=2, num_items=1) for n in (0, 1)
    )
    log = Dataset(
        path=tmp_path,
        key="k",
        digest="d" * 32,
        num_rows=10,
        config_hash="c",
        code_version="v",
        files=(),
        root=tmp_path,
        day=DAY,
        days=days,
        columns={"users": {"user_id": "int64"}, "items": {"item_id": "string"}},
    )
    found = SimpleNamespace(**records.dataset_input(log, "/data/log"))
    profile = json.loads(found.profile)
    assert (profile["num_interactions"], profile["first_day"], profile["last_day"]) == (10, "2024-03-01", "2024-03-02")
    assert [column["name"] for column in json.loads(found.schema)["mlflow_colspec"]] == [
        "users.user_id",
        "items.item_id",
    ]
    assert (found.source_type, found.context) == ("local", "log")


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A git repository with one tracked source; the tags are those of the code that runs."""
    source = tmp_path / "records.py"
    source.write_text("")
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
    for command in (["init", "-q"], ["add", "records.py"], [*identity, "commit", "-qm", "first"]):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    monkeypatch.setattr(records, "__file__", str(source))
    return tmp_path


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_revision_of_a_checkout_says_if_it_was_changed(checkout):
    clean = records.revision()
    assert clean["git.dirty"] == "false"
    assert len(clean["git.sha"]) == 40
    assert clean["mlflow.source.git.commit"] == clean["git.sha"]
    (checkout / "records.py").write_text("changed")
    assert records.revision() == clean | {"git.dirty": "true"}


def test_code_that_is_not_tracked_has_no_revision(checkout, monkeypatch, tmp_path):
    monkeypatch.setattr(records, "__file__", str(checkout / "other.py"))
    assert records.revision() == {}
    monkeypatch.setattr(records, "__file__", str(checkout / "records.py"))
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent / "nowhere"))
    assert records.revision() == {}
