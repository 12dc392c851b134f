"""Several labels at once: click, and conversion among the clicks, from the config to predictions, by hand."""

import datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pydantic import ValidationError

from recsys_core import distributed, readers, serving
from recsys_core.config import RankingConfig, building
from recsys_core.datasets.labelled import splits
from recsys_core.features import Config as Features
from recsys_core.loading.rank_batches import RankBatches
from recsys_core.losses import binary_cross_entropy, bpr
from recsys_core.metrics.ranking import Scored
from recsys_core.models import shared_bottom
from recsys_core.progress import silent
from recsys_core.ranking import Config, evaluate, export, measure, predict, prepare, publish, train
from recsys_core.ranking.feed import labelled
from recsys_core.ranking.objective import Ranking, by_task
from recsys_core.sections.export import Config as Export
from recsys_core.tracking import records
from recsys_core.training.config import Config as Train

DAY = datetime.date(2024, 1, 1)
COMMON = {"config_hash": "c" * 32, "code_version": "tests"}
TASKS = {"click": {"label": "clicked"}, "conversion": {"label": "bought", "given": "click", "weight": 0.5}}
RANKING = Config.model_validate({"tasks": TASKS, "group": "user"})
MODEL = shared_bottom.Config.model_validate({"hidden": [8], "tasks": {"click": {"hidden": [4]}, "conversion": {}}})
FEATURES = {
    "embedding_dim": 4,
    "query": [{"kind": "id", "name": "user", "num_embeddings": 16}],
    "item": [{"kind": "id", "name": "item", "num_embeddings": 16}],
}


def _table(num_rows, seed):
    rng = np.random.default_rng(seed)
    user, item = rng.integers(0, 8, num_rows), rng.integers(0, 8, num_rows)
    clicked = (user % 2 == item % 2) ^ (rng.random(num_rows) < 0.2)
    # Of the clicks those on the upper items convert; where there was no click it is not known.
    bought = pa.array((item > 3) ^ (rng.random(num_rows) < 0.1), mask=~clicked)
    return pa.table({"clicked": clicked.astype(np.int8), "bought": bought, "user": user, "item": item})


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("labelled")
    for split, num_rows, seed in (("train", 800, 0), ("valid", 200, 1), ("test", 200, 2)):
        (root / split).mkdir()
        pq.write_table(_table(num_rows, seed), root / split / "part-0.parquet")
    return _prepared(root, tmp_path_factory.mktemp("prepared") / "prepare")


def _prepared(root, output, ranking=RANKING):
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


def _train_request(data, output):
    section = {"batch_size": 50, "num_epochs": 12, "evaluate_every_epochs": 12, "sharding": {"device": "cpu"}}
    section |= {
        "sparse_optimizer": {"kind": "adagrad", "learning_rate": 0.3},
        "dense_optimizer": {"learning_rate": 0.03},
    }
    return train.Request(
        output=output,
        config=Train.model_validate(section),
        ranking=RANKING,
        model=MODEL,
        loss=binary_cross_entropy.Config(),
        num_ranks=1,
        seed=1,
        day=DAY,
        data=data,
        **COMMON,
    )


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"tasks": {"click": {"label": "c"}}}, "tasks: there is one; name its column in label"),
        ({"tasks": TASKS, "label": "bought"}, "label: 'bought', and tasks have labels of their own; leave it out"),
        (
            {"tasks": {"a": {"label": "x", "given": "b"}, "b": {"label": "y"}}},
            "tasks.a.given: 'b' is no earlier task .it is the first, of all rows.; name one, or null",
        ),
        (
            {"tasks": {"a": {"label": "x"}, "b": {"label": "y", "given": "c"}}},
            "tasks.b.given: 'c' is no earlier task .those before it are a.",
        ),
        ({"tasks": {"A b": {"label": "x"}, "c": {"label": "y"}}}, "tasks: 'A b' is to be part of columns' names"),
        ({"tasks": {"a": {"label": "x", "weight": 0}, "b": {"label": "y"}}}, r"tasks\.a\.weight"),
    ],
)
def test_tasks_that_contradict_are_refused(section, message):
    with pytest.raises(ValidationError, match=message):
        Config.model_validate(section)


def test_the_first_task_s_label_is_the_label_and_one_label_is_as_before():
    assert (RANKING.label, RANKING.label_columns) == ("clicked", ("clicked", "bought"))
    assert Config.model_validate_json(RANKING.model_dump_json()) == RANKING
    assert Config(label="y").label_columns == ("y",)
    assert [task.label for task in Config(label="y").named.values()] == ["y"]


def test_a_model_and_a_config_name_the_same_tasks():
    sections = {
        "name": "m",
        "data": {"kind": "splits", "source": "d", "day": "2024-01-01"},
        "features": FEATURES,
        "ranking": {"tasks": TASKS},
        "model": MODEL.model_dump(),
    }
    config = RankingConfig.model_validate(sections)
    assert RankingConfig.model_validate_json(config.model_dump_json()) == config
    building.check(config)
    turned = {"kind": "shared_bottom", "tasks": {"conversion": {}, "click": {}}}
    softmax = {"click": {"label": "c", "loss": {"kind": "sampled_softmax"}}, "conversion": {"label": "b"}}
    for change, message in (
        ({"ranking": {}}, "shared_bottom: gives click, conversion, and ranking has one label"),
        ({"model": {"kind": "dlrm"}}, "dlrm: gives one logit a row, and ranking.tasks names click, conversion"),
        ({"model": turned}, "name the same tasks in the same order in both"),
        ({"ranking": {"tasks": softmax}}, "not a loss that judges the logits of labelled rows"),
    ):
        with pytest.raises(ValueError, match=message):
            building.check(RankingConfig.model_validate(sections | change))


def test_a_task_s_rows_are_the_positive_ones_of_what_it_is_given():
    table = pa.table({"clicked": [1, 1, 0, 1], "bought": [1, 0, None, 1], "back": [1, 0, 1, 0], "w": [1.0, 2, 3, 4]})
    tasks = TASKS | {"refund": {"label": "back", "given": "conversion"}}
    labels, weights = labelled(table, Config.model_validate({"tasks": tasks}))
    assert labels["conversion"].tolist() == [1, 0, 0, 1]
    assert weights["click"] is None
    assert (weights["conversion"].tolist(), weights["refund"].tolist()) == ([1, 1, 0, 1], [1, 0, 0, 1])
    _, weights = labelled(table, Config.model_validate({"tasks": tasks, "sample_weight": "w"}))
    assert [weights[name].tolist() for name in tasks] == [[1, 2, 3, 4], [1, 2, 0, 4], [1, 0, 0, 4]]


def test_the_losses_are_means_over_each_task_s_rows(data):
    objective = Ranking(RANKING, MODEL, binary_cross_entropy.Config(), data, batch_size=50, seed=1)
    table = pa.table(
        {"clicked": [1, 1, 0, 0], "bought": [1, 0, None, None], "user": [1, 2, 3, 4], "item": [1, 2, 3, 4]}
    )
    labels, weights = labelled(table, RANKING)
    # Logits of 0 and log 3: probabilities 1/2 and 3/4.
    logits = torch.tensor([[np.log(3), 0.0], [0.0, np.log(3)], [0.0, 9.0], [np.log(3), 9.0]], dtype=torch.float32)

    class Rows:
        sparse, dense_BF, numbers, global_rows, groups_B = None, None, (), 4, None

    Rows.labels, Rows.weights = labels, weights
    with distributed.world("cpu") as world:
        found = objective.loss(lambda *_: logits, Rows, world)
        figures = objective.figures(world)
    # Clicks: 3/4 for 1, 1/2 for 1, 1/2 for 0, 3/4 for 0. Conversions, of the two clicks: 1/2 for 1, 3/4 for 0.
    click = -np.log(0.75) + 2 * np.log(2) - np.log(0.25)
    conversion = (np.log(2) - np.log(0.25)) / 2
    assert float(found["click"]) / 4 == pytest.approx(click / 4)
    assert float(found["conversion"]) / 4 == pytest.approx(0.5 * conversion)
    # Clicks: pairs 3/4 > 1/2, and = 3/4, 1/2 = 1/2, 1/2 < 3/4. The conversion scores below the other click.
    assert figures == {"auc": 0.5, "auc_click": 0.5, "auc_conversion": 0.0}


def test_labels_are_looked_at_where_they_count(tmp_path):
    (tmp_path / "train").mkdir()
    table = _table(20, 0)
    clicked = table["clicked"].to_pylist()
    for row, value, message in (
        (clicked.index(1), None, r"column 'bought' holds None in row .*ranking\.tasks\.conversion\.label"),
        (clicked.index(0), 2, "column 'bought' holds 2 in row .*, or null where click is not 1"),
    ):
        bought = [None if one is None else int(one) for one in table["bought"].to_pylist()]
        bought[row] = value
        broken = table.set_column(1, "bought", pa.array(bought, pa.int8()))
        pq.write_table(broken, tmp_path / "train" / "part-0.parquet")
        with pytest.raises(ValueError, match=message):
            _prepared(tmp_path, tmp_path / "prepare")
    reads = FEATURES | {"item": [{"kind": "id", "name": "bought", "num_embeddings": 4}]}
    pq.write_table(table.set_column(1, "bought", pa.array(clicked)), tmp_path / "train" / "part-0.parquet")
    asked = prepare.Request(
        output=tmp_path / "p",
        config=RANKING,
        data=splits.Config(source=str(tmp_path), day=DAY),
        features=Features.model_validate(reads),
        import_root=tmp_path,
        fingerprint="f",
        **COMMON,
    )
    with pytest.raises(ValueError, match="one of them reads 'bought', the label"):
        prepare.run(asked, silent)


def test_two_labels_from_training_to_predictions(data, tmp_path):
    events = []
    request = _train_request(data, tmp_path / "train")
    made = train.run(request, events.append)
    last = [event.metrics for event in events if "loss_conversion" in event.metrics][-1]
    assert last["loss"] == pytest.approx(last["loss_click"] + last["loss_conversion"])
    valid = [event.metrics for event in events if "valid_auc" in event.metrics][-1]
    assert valid["valid_auc"] == valid["valid_auc_click"]
    assert valid["valid_auc_conversion"] > 0.8

    exported = export.run(
        export.Request(output=tmp_path / "export", config=Export(), model=MODEL, data=data, checkpoint=made, **COMMON),
        silent,
    )
    assert exported.tasks == ("click", "conversion")
    asked = predict.Request(
        output=tmp_path / "predict",
        config=predict.Config(batch_size=64),
        source="test",
        source_digest="d",
        data=data,
        split="test",
        model=exported,
        **COMMON,
    )
    predictions = predict.run(asked, silent)
    rows = readers.read_all(readers.opened(predictions.rows))
    added = ["score_click", "probability_click", "score_conversion", "probability_conversion"]
    assert rows.column_names == [*_table(1, 0).column_names, *added]
    score, probability = (rows[f"{name}_conversion"].to_numpy() for name in ("score", "probability"))
    assert probability == pytest.approx(1 / (1 + np.exp(-score)), abs=1e-6)

    publish.Bundle(exported, *publish.examples(exported, data, "test", predictions, 12)).fill(tmp_path / "bundle")
    answers = serving.load(tmp_path / "bundle").answer({"user": [1, 2], "item": [3, 5]}, {})
    assert answers.column_names == [added[n] for n in (1, 0, 3, 2)]
    at = [row["user"] == 1 and row["item"] == 3 for row in rows.to_pylist()].index(True)
    assert answers["probability_conversion"][0].as_py() == pytest.approx(probability[at], rel=1e-5)
    assert "12 rows scored" in serving.load(tmp_path / "bundle").check_kept(tmp_path / "bundle")

    measured = evaluate.run(
        evaluate.Request(
            output=tmp_path / "evaluate",
            config=evaluate.Config(batch_size=30),
            ranking=RANKING,
            model=MODEL,
            sharding=request.config.sharding,
            num_ranks=1,
            seed=1,
            data=data,
            checkpoint=made,
            **COMMON,
        ),
        silent,
    )
    assert measured.tasks["click"] == measured.metrics
    logged = records.ranking_metrics(data, made, measured)
    assert logged["tasks/conversion/auc"] == measured.tasks["conversion"].auc
    assert logged["auc"] == logged["tasks/click/auc"]
    clicks = rows.filter(pa.array(rows["clicked"].to_numpy() == 1))
    bought = np.array(clicks["bought"].to_pylist())
    slow = Scored(clicks["score_conversion"].to_numpy().astype(float), bought, np.ones(len(bought)), None).metrics()
    found = measured.tasks["conversion"]
    assert (found.num_rows, found.num_positives) == (len(bought), bought.sum())
    assert found.auc == pytest.approx(slow.auc, abs=1e-3)
    assert found.logloss == pytest.approx(slow.logloss, rel=1e-4)
    assert found.auc > 0.8
    assert measured.metrics.auc > 0.7


def test_a_day_without_a_task_s_rows_has_no_metrics_of_it():
    rows = {"click": Scored(np.zeros(2), np.zeros(2, bool), np.ones(2), None)}
    rows["conversion"] = rows["click"].taken(np.zeros(2, bool))
    found = evaluate.measured(rows)
    assert found["conversion"] is None
    assert found["click"].auc is None


def test_a_day_s_tasks_are_measured_by_hand_from_its_scored_rows():
    table = pa.table({"clicked": [1, 1, 1, 0], "bought": [1, 0, 0, None]})
    for name, scores in {"click": [2.0, 1.0, 0.0, 1.0], "conversion": [1.0, 0.0, 2.0, 9.0]}.items():
        table = table.append_column(f"score_{name}", pa.array(scores))
    first = Scored(np.zeros(4), np.ones(4, bool), np.ones(4), None)
    asked = measure.Request.model_construct(ranking=RANKING, metrics=())
    found = measure._tasks(table, first, asked)
    # Clicks: above, equal to and below the one row without. Of the clicks, the one conversion: above one of two.
    assert (found["click"].auc, found["conversion"].auc) == (0.5, 0.5)
    assert (found["click"].num_rows, found["conversion"].num_rows) == (4, 3)
    none = measure._tasks(table.set_column(0, "clicked", pa.array([0, 0, 0, 0])), first, asked)
    assert none["conversion"] is None


def test_a_champion_is_compared_by_the_same_task_or_by_its_only_one():
    both = ["score_conversion", "score_click"]
    assert measure._scores(both, RANKING, "click") == ["score_click", "score_conversion"]
    assert measure._scores(both, RANKING, "conversion") == both
    assert measure._scores(["score", "probability"], RANKING, "click") == ["score"]
    for columns, task in ((["score_conversion"], "click"), (["score"], "conversion")):
        with pytest.raises(ValueError, match=f"the champion has no task '{task}', by which it is compared"):
            measure._scores(columns, RANKING, task)


def test_outputs_are_named_in_the_order_of_the_tasks():
    logits = by_task(RANKING, torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    assert {name: column.tolist() for name, column in logits.items()} == {"click": [1, 3], "conversion": [2, 4]}


def test_a_loss_of_groups_compares_a_task_s_rows_only(data):
    grouped = RANKING.model_copy(update={"group": "user"})
    objective = Ranking(grouped, MODEL, bpr.Config(), data, batch_size=50, seed=1)
    table = pa.table({"clicked": [1, 1, 0, 0], "bought": [1, 0, None, None]})
    labels, weights = labelled(table, grouped)
    logits = torch.tensor([[np.log(3), 0.0], [0.0, np.log(3)], [0.0, 9.0], [np.log(3), 9.0]], dtype=torch.float32)

    class Rows:
        sparse, dense_BF, numbers, global_rows, groups_B = None, None, (), 4, torch.full((4,), 5)

    Rows.labels, Rows.weights = labels, weights
    with distributed.world("cpu") as world:
        found = objective.loss(lambda *_: logits, Rows, world)
    # Clicks: 3/4 and 1/2 against the negatives of the first, 1/2 and 1/4 against those of the second.
    click = (-np.log(0.75) + np.log(2)) / 2 + (np.log(2) - np.log(0.25)) / 2
    assert float(found["click"]) == pytest.approx(click)
    # The conversion against the other click, and not against rows without a click, which score 9.
    assert float(found["conversion"]) / 4 == pytest.approx(0.5 * -np.log(0.25) / 2)


def test_batches_have_the_groups_that_a_loss_reads(data):
    grouped = RANKING.model_copy(update={"group": "user"})
    for loss, reads in ((bpr.Config(), True), (binary_cross_entropy.Config(), False)):
        objective = Ranking(grouped, MODEL, loss, data, batch_size=50, seed=1)
        shard = RankBatches.in_order(objective.reader, objective.feed.columns, batch_size=50, rank=0, num_ranks=1)
        rows = next(iter(shard))
        groups_B = objective.feed.batch(rows).groups_B
        assert (groups_B is not None) == reads
        if groups_B is not None:
            users = rows.table.column("user").to_pylist()
            same = [[one == other for other in users] for one in users]
            assert (groups_B[:, None] == groups_B[None]).tolist() == same
