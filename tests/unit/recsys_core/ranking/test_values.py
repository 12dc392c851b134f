"""Labels other than clicks, beside clicks and alone: from the config to predictions, metrics and what is served."""

import datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from recsys_core import readers, serving
from recsys_core.config import RankingConfig, building
from recsys_core.datasets.labelled import splits
from recsys_core.features import Config as Features
from recsys_core.losses import binary_cross_entropy, tweedie
from recsys_core.metrics.ranking import xauc
from recsys_core.models import mmoe, multi_tower
from recsys_core.progress import silent
from recsys_core.ranking import Config, evaluate, export, predict, prepare, publish, train
from recsys_core.registry import named
from recsys_core.sections.export import Config as Export
from recsys_core.training.config import Config as Train

DAY = datetime.date(2024, 1, 1)
COMMON = {"config_hash": "c" * 32, "code_version": "tests"}
SECONDS = {"label": "seconds", "given": "click", "predicts": "value", "loss": {"kind": "huber", "delta": 2.0}}
TASKS = {"click": {"label": "clicked"}, "seconds": SECONDS}
RANKING = Config.model_validate({"tasks": TASKS, "group": "user"})
MODEL = mmoe.Config.model_validate({"hidden": [8], "tasks": {"click": {"hidden": [4]}, "seconds": {"hidden": [4]}}})
FEATURES = {
    "embedding_dim": 4,
    "query": [{"kind": "id", "name": "user", "num_embeddings": 16}],
    "item": [{"kind": "id", "name": "item", "num_embeddings": 16}],
}


def _table(num_rows, seed):
    """Clicks by parity; seconds grow with the item, and are not known where there was no click; money is often 0."""
    rng = np.random.default_rng(seed)
    user, item = rng.integers(0, 8, num_rows), rng.integers(0, 8, num_rows)
    clicked = (user % 2 == item % 2) ^ (rng.random(num_rows) < 0.2)
    seconds = pa.array(item - 3.0 + rng.normal(size=num_rows), mask=~clicked)
    money = np.where(rng.random(num_rows) < 0.5, np.exp(item / 4 + rng.normal(size=num_rows) * 0.3), 0)
    columns = {"clicked": clicked.astype(np.int8), "seconds": seconds, "money": money, "user": user, "item": item}
    return pa.table(columns)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("labelled")
    for split, num_rows, seed in (("train", 1_500, 0), ("valid", 200, 1), ("test", 400, 2)):
        (root / split).mkdir()
        pq.write_table(_table(num_rows, seed), root / split / "part-0.parquet")
    return root


def _prepared(root, output, ranking):
    asked = prepare.Request(
        output=output,
        config=ranking,
        data=splits.Config(source=str(root), day=DAY),
        features=Features.model_validate(FEATURES),
        import_root=root,
        fingerprint="f",
        **COMMON,
    )
    return prepare.run(asked, silent)


def _stages(root, folder, ranking, model, loss, best, sink=silent):
    """Prepare, train, export, predict and evaluate; return what the last four leave, and the data."""
    data = _prepared(root, folder / "prepare", ranking)
    section = {"batch_size": 50, "num_epochs": 8, "evaluate_every_epochs": 4, "best_metric": best}
    section |= {
        "sharding": {"device": "cpu"},
        "sparse_optimizer": {"kind": "adagrad", "learning_rate": 0.3},
        "dense_optimizer": {"learning_rate": 0.01},
    }
    common = {"model": model, "data": data, **COMMON}
    of_ranks = {"ranking": ranking, "num_ranks": 1, "seed": 1}
    made = train.run(
        train.Request(
            output=folder / "train", config=Train.model_validate(section), loss=loss, day=DAY, **of_ranks, **common
        ),
        sink,
    )
    exported = export.run(
        export.Request(
            output=folder / "export",
            config=Export(),
            ranking=ranking,
            predicts=ranking.outputs,
            checkpoint=made,
            **common,
        ),
        silent,
    )
    asked = predict.Request(
        output=folder / "predict",
        config=predict.Config(batch_size=64),
        source="test",
        source_digest="d",
        data=data,
        split="test",
        model=exported,
        **COMMON,
    )
    measured = evaluate.run(
        evaluate.Request(
            output=folder / "evaluate",
            config=evaluate.Config(batch_size=90, metrics=(xauc.Config(),)),
            sharding=Train.model_validate(section).sharding,
            checkpoint=made,
            **of_ranks,
            **common,
        ),
        silent,
    )
    return data, exported, predict.run(asked, silent), measured


def test_a_value_beside_clicks_from_training_to_what_is_served(root, tmp_path):
    events = []
    data, exported, predictions, measured = _stages(
        root, tmp_path, RANKING, MODEL, binary_cross_entropy.Config(), "auc", events.append
    )
    last = [event.metrics for event in events if "loss_seconds" in event.metrics][-1]
    assert "auc_click" in last
    assert "auc_seconds" not in last
    valid = [event.metrics for event in events if "valid_auc" in event.metrics][-1]
    assert valid["valid_mean_squared_error_seconds"] < 3
    assert exported.predicts == ("probability", "value")
    rows = readers.read_all(readers.opened(predictions.rows))
    assert rows.column_names[-4:] == ["score_click", "probability_click", "score_seconds", "value_seconds"]
    assert rows["score_seconds"].equals(rows["value_seconds"])
    clicks = rows.filter(pa.array(rows["clicked"].to_numpy() == 1))
    found, labels = measured.tasks["seconds"], np.array(clicks["seconds"].to_pylist())
    assert found.num_rows == len(clicks)
    errors = clicks["value_seconds"].to_numpy() - labels
    assert found.others["mean_squared_error"] == pytest.approx((errors**2).mean(), rel=1e-4)
    assert found.others["mean_absolute_error"] == pytest.approx(np.abs(errors).mean(), rel=1e-4)
    # The noise of the labels has a variance of 1, and that of the labels is beyond 5.
    assert labels.var() > 5
    assert found.others["mean_squared_error"] < 2
    assert found.others["xauc"] > 0.8
    assert "xauc" not in measured.metrics.others

    publish.Bundle(exported, *publish.examples(exported, data, "test", predictions, 12)).fill(tmp_path / "bundle")
    loaded = serving.load(tmp_path / "bundle")
    answers = loaded.answer({"user": [1, 2], "item": [3, 5]}, {})
    assert answers.column_names == ["probability_click", "score_click", "value_seconds", "score_seconds"]
    assert "12 rows scored; their predictions differ" in loaded.check_kept(tmp_path / "bundle")


def test_an_amount_alone_is_the_exponential_of_the_output(root, tmp_path):
    ranking = Config(label="money", predicts="amount", group="user")
    model = multi_tower.Config.model_validate({"towers": [{"hidden": [8]}], "hidden": [4]})
    _, exported, predictions, measured = _stages(
        root, tmp_path, ranking, model, tweedie.Config(), "mean_absolute_error"
    )
    rows = readers.read_all(readers.opened(predictions.rows))
    assert rows.column_names[-2:] == ["score", "value"]
    score, value = rows["score"].to_numpy(), rows["value"].to_numpy()
    np.testing.assert_allclose(value, np.exp(score), rtol=1e-5)
    assert measured.metrics.others["mean_squared_error"] == pytest.approx(
        ((value - rows["money"].to_numpy()) ** 2).mean(), rel=1e-4
    )
    assert measured.metrics.calibration == pytest.approx(1, abs=0.15)
    assert measured.tasks == {}
    assert '"value": "exp(score)"' in (exported.path / "signature.json").read_text()
    # What lies beside the weights says what they predict, to those that have no config.
    assert named.find(folder=tmp_path / "train").trained().predicts == ("amount",)


@pytest.mark.parametrize(
    ("label", "predicts", "value", "message"),
    [
        ("money", "probability", None, r"holds .* in row .*; a label is 0 or 1 \(ranking\.label\)"),
        ("money", "amount", -1.0, r"'money' holds -1\.0 in row 3 .*; a label is a finite number from 0 on"),
        ("money", "value", float("nan"), r"'money' holds nan in row 3 .*; a label is a finite number \(ranking"),
        ("seconds", "value", None, r"'seconds' holds None in row .*; a label is a finite number"),
    ],
)
def test_labels_are_looked_at_as_what_they_are(tmp_path, label, predicts, value, message):
    table = _table(20, 0)
    if value is not None:
        money = table["money"].to_pylist()
        money[3] = value
        table = table.set_column(2, "money", pa.array(money))
    (tmp_path / "train").mkdir()
    pq.write_table(table, tmp_path / "train" / "part-0.parquet")
    with pytest.raises(ValueError, match=message):
        _prepared(tmp_path, tmp_path / "prepare", Config(label=label, predicts=predicts))


def test_values_may_all_be_positive(tmp_path):
    (tmp_path / "train").mkdir()
    table = _table(20, 0)
    pq.write_table(table.set_column(2, "money", pa.array(np.ones(20))), tmp_path / "train" / "part-0.parquet")
    data = _prepared(tmp_path, tmp_path / "prepare", Config(label="money", predicts="value"))
    assert data.splits[0].num_positives == 20


@pytest.mark.parametrize(
    ("tasks", "section", "message"),
    [
        ({"a": {"label": "x", "predicts": "value"}, "b": {"label": "y", "given": "a"}}, {}, "'a' predicts no probabil"),
        (TASKS | {"seconds": SECONDS | {"space": "all"}}, {}, "space: all, and it predicts no probability"),
        (TASKS, {"predicts": "value"}, "predicts: value, and tasks have their own"),
    ],
)
def test_sections_that_contradict_are_refused(tasks, section, message):
    with pytest.raises(ValidationError, match=message):
        Config.model_validate({"tasks": tasks} | section)


def test_a_loss_a_metric_and_a_label_fit_each_other():
    sections = {
        "name": "m",
        "data": {"kind": "labelled_days", "source": "d"},
        "features": FEATURES,
        "ranking": {"label": "money", "predicts": "amount"},
        "model": {"kind": "multi_tower", "towers": [{"hidden": [8]}]},
        "loss": {"kind": "tweedie"},
        "gate": {"metric": "mean_absolute_error"},
    }
    building.check(RankingConfig.model_validate(sections))
    of_clicks = {"label": "seconds", "loss": {"kind": "huber"}}
    tasks = {"ranking": {"tasks": TASKS | {"seconds": of_clicks}}, "model": MODEL.model_dump()}
    for change, message in (
        (
            {"loss": {"kind": "huber"}},
            "loss.kind huber: the model learns a value by it, and ranking.predicts is",
        ),
        ({"loss": {"kind": "focal"}}, "set that to probability, or take a loss such as tweedie"),
        (tasks | {"loss": {}, "gate": {}}, "huber: .* and ranking.tasks.seconds.predicts is probability; set that to"),
    ):
        with pytest.raises(ValueError, match=message):
            building.check(RankingConfig.model_validate(sections | change))
    for change, message in (
        ({"gate": {}}, "gate.metric: auc is not measured of a task that predicts: amount; name one of mean_sq"),
        ({"gate": {"metric": "xauc"}}, "gate.metric: xauc is not measured; add {kind: xauc} to evaluate.metrics"),
    ):
        with pytest.raises(ValueError, match=message):
            RankingConfig.model_validate(sections | change)
    RankingConfig.model_validate(sections | {"gate": {"metric": "xauc"}, "evaluate": {"metrics": [{"kind": "xauc"}]}})
    for metric, ranking in (("xauc", {}), ("pr_auc", sections["ranking"])):
        change = {"ranking": ranking, "gate": {}, "evaluate": {"metrics": [{"kind": metric}]}}
        with pytest.raises(ValueError, match=f"evaluate.metrics: {metric} is not measured of tasks that predict: "):
            RankingConfig.model_validate(sections | change)
    once = {name: value for name, value in sections.items() if name != "gate"}
    once |= {"data": {"kind": "splits", "source": "d", "day": "2024-01-01"}, "train": {"evaluate_every_epochs": 1}}
    with pytest.raises(ValueError, match="train.best_metric: auc is not measured of a task that predicts: amount; set"):
        RankingConfig.model_validate(once)
