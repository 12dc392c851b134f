"""Scores of a table, and a training that stops when it gets no better, is compiled, or takes a loss of one's own."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from labelled_rows import COMMON, MODEL, evaluated, train_request
from pydantic import ValidationError
from typer.testing import CliRunner

from flows.cli import app
from recsys_core import checkpoint, lookup
from recsys_core.artifacts import Predictions, RankingEvaluation
from recsys_core.checkpoint import files
from recsys_core.exported import tables
from recsys_core.losses import binary_cross_entropy
from recsys_core.metrics.ranking import Scored
from recsys_core.progress import Event, silent
from recsys_core.ranking import Config, evaluate, export, predict, train
from recsys_core.sections.export import Config as Export
from recsys_core.training.config import Config as Train


def test_training_stops_and_what_is_kept_is_the_best_state(data, trained, tmp_path):
    position = checkpoint.position(trained.state)
    assert trained.num_steps == position.step < 60 * 8
    (best,) = position.kept
    assert best.step == position.step - 2 * 8
    found = evaluated(data, trained, tmp_path / "evaluate")
    assert found.metrics.logloss == pytest.approx(best.value, rel=1e-6)
    assert not list(trained.path.rglob("best"))


_BY_EPOCHS = {
    "num_epochs": 9,
    "evaluate_every_steps": None,
    "evaluate_every_epochs": 2,
    "early_stopping_patience": None,
    "keep_best": 3,
    "checkpoint_every_steps": 12,
}


@pytest.fixture(scope="module")
def kept(data, tmp_path_factory):
    """Training whose three best states of four are there."""
    events = []
    request = train_request(data, tmp_path_factory.mktemp("kept") / "train", **_BY_EPOCHS)
    return train.run(request, events.append), events


def test_states_are_measured_after_epochs_and_the_best_three_can_be_used(data, kept, tmp_path):
    made, events = kept
    # 400 rows are eight steps; the ninth epoch is no second one.
    values = {event.step: event.metrics["valid_logloss"] for event in events if "valid_logloss" in event.metrics}
    assert list(values) == [16, 32, 48, 64]
    expected = sorted(values.items(), key=lambda pair: pair[1])[:3]
    assert [(one.step, one.value) for one in made.kept] == expected
    folders = ["state", *(f"best/step-{step}" for step, _ in expected[1:])]
    assert [one.folder for one in made.kept] == folders
    assert sorted(path.name for path in (made.path / "best").iterdir()) == sorted(f[5:] for f in folders[1:])
    for number, (step, value) in enumerate(expected):
        found = evaluated(data, made.at(step), tmp_path / f"evaluate-{number}")
        assert found.metrics.logloss == pytest.approx(value, rel=1e-6)
        request = export.Request(
            output=tmp_path / f"export-{number}",
            config=Export(),
            model=MODEL,
            data=data,
            checkpoint=made.at(step),
            **COMMON,
        )
        export.run(request, silent)
    assert made.at(None).digest == made.at(expected[0][0]).digest != made.at(expected[1][0]).digest
    with pytest.raises(ValueError, match=r"use_step: .* has no state of step 7, but of .*\(logloss 0\."):
        made.at(7)


def test_checkpoint_commands_list_the_states_that_were_kept(kept):
    made, _ = kept
    shown = CliRunner().invoke(app, ["checkpoint", "list", str(made.path.parent), "--json"], catch_exceptions=False)
    rows = json.loads(shown.stdout)
    assert [row["state"] for row in rows] == [f"step {one.step}, logloss {one.value:.6g}" for one in made.kept]
    assert [row["path"] for row in rows] == [
        str(made.path),
        *(str(made.path / one.folder) for one in made.kept[1:]),
    ]
    assert [row["steps"] for row in rows] == [72, None, None]
    shown = CliRunner().invoke(app, ["checkpoint", "show", rows[1]["path"]], catch_exceptions=False)
    assert f"step {made.kept[1].step}, " in shown.stderr
    shown = CliRunner().invoke(app, ["checkpoint", "show", rows[0]["path"]], catch_exceptions=False)
    assert ", ".join(f"{one.step} ({one.value:.6g})" for one in made.kept) in shown.stderr


# Checkpoints are made after every second step: 38 is before the evaluation at 40, 40 is after that by steps and before
# that by epochs. In the background, what is evicted may still be read.
@pytest.mark.parametrize("dies_at", [39, 40, 41])
def test_a_training_that_is_killed_between_evaluations_keeps_the_same_states(data, tmp_path, dying_at, dies_at):
    changes = _BY_EPOCHS | {
        "num_epochs": 12,
        "evaluate_every_steps": 20,
        "evaluate_every_epochs": 1,
        "early_stopping_patience": 5,
        "keep_best": 2,
        "checkpoint_every_steps": 2,
        "async_checkpoints": dies_at == 41,
    }
    events: list = []
    whole = train.run(train_request(data, tmp_path / "whole" / "train", **changes), events.append)
    request = train_request(data, tmp_path / "killed" / "train", **changes)
    again: list = []
    with dying_at(dies_at):
        train.run(request, again.append)
    made = train.run(request, again.append)
    assert made.kept == whole.kept
    assert (made.num_steps, made.loss) == (whole.num_steps, whole.loss)
    measured = [
        {event.step: event.metrics for event in emitted if "valid_logloss" in event.metrics}
        for emitted in (events, again)
    ]
    assert measured[0] == measured[1]
    assert {8, 16, 20, 24, 32, 40} <= measured[0].keys()
    for one in made.kept:
        assert not list(files.diff(whole.path / one.folder, made.path / one.folder))


def test_stopping_needs_evaluations_and_validation_rows(data, tmp_path):
    with pytest.raises(
        ValidationError, match="early_stopping_patience counts evaluations; set evaluate_every_steps or"
    ):
        Train.model_validate({"early_stopping_patience": 1})
    with pytest.raises(ValidationError, match="keep_best counts evaluations; set evaluate_every_steps or"):
        Train.model_validate({"keep_best": 2})
    alone = data.model_copy(update={"splits": data.splits[:1]})
    with pytest.raises(ValueError, match="the data has no split `valid`"):
        train.run(train_request(alone, tmp_path / "train"), silent)
    sharding = train_request(alone, tmp_path / "train").config.sharding
    asked = evaluate.Request.model_construct(config=evaluate.Config(), data=alone, sharding=sharding)
    with pytest.raises(ValueError, match="evaluate.split: the data has no split 'test', only train"):
        evaluate.run(asked, silent)


def test_a_metric_that_is_not_there_cannot_choose(data, tmp_path):
    request = train_request(data, tmp_path / "train", best_metric="gauc")
    with pytest.raises(ValueError, match="train.best_metric: the validation rows have no gauc, only .*auc"):
        train.run(request.model_copy(update={"ranking": Config()}), silent)


def test_compiled_training_ends_as_eager_does_and_its_checkpoint_is_no_other(data, tmp_path, dying_at):
    # 400 rows in batches of 90: the last of an epoch has 40.
    changes = {"batch_size": 90, "num_epochs": 3, "evaluate_every_steps": None, "early_stopping_patience": None}
    changes |= {"checkpoint_every_steps": 4}
    eager = train.run(train_request(data, tmp_path / "eager" / "train", **changes), silent)
    request = train_request(data, tmp_path / "compiled" / "train", compile=True, **changes)
    compiled = train.run(request, silent)
    assert compiled.loss == pytest.approx(eager.loss, rel=1e-5)
    assert files.describe(compiled.state) == files.describe(eager.state)
    for one in files.diff(eager.state, compiled.state):
        assert one.max_absolute is not None
        assert one.max_absolute < 1e-5, one
    # Another process would find the sizes of the batches in another order.
    killed = request.model_copy(update={"output": tmp_path / "killed" / "train"})
    with dying_at(9):
        train.run(killed, silent)
    torch._dynamo.reset()
    assert not list(files.diff(train.run(killed, silent).state, compiled.state))
    exported = export.run(
        export.Request(
            output=tmp_path / "export", config=Export(), model=MODEL, data=data, checkpoint=compiled, **COMMON
        ),
        silent,
    )
    assert exported.parity_max_abs_difference < 1e-5


def test_scores_are_the_checkpoint_s_in_the_table_s_order(data, trained, tmp_path):
    found: RankingEvaluation = evaluated(data, trained, tmp_path / "evaluate", split="test")
    request = export.Request(
        output=tmp_path / "export", config=Export(), model=MODEL, data=data, checkpoint=trained, **COMMON
    )
    exported = export.run(request, silent)
    source = str(*data.folders("test"))

    def scored(name, **config) -> Predictions:
        return predict.run(
            predict.Request(
                output=tmp_path / name,
                config=predict.Config(batch_size=40, **config),
                source=source,
                source_digest="d",
                model=exported,
                **COMMON,
            ),
            silent,
        )

    rows = pq.read_table(scored("predict", reserved_columns=("user", "label", "weight")).rows)
    assert rows["user"].to_pylist() == pq.read_table(source)["user"].to_pylist()
    probability, label, weight = (rows[name].to_numpy() for name in ("probability", "label", "weight"))
    losses = -np.log(np.where(label, probability, 1 - probability))
    assert np.average(losses, weights=weight) == pytest.approx(found.metrics.logloss, rel=1e-4)
    assert found.metrics.auc > 0.65
    # A rerun, on fewer ranks than the one that was killed, replaces what another table has left there.
    (tmp_path / ".written.partial" / "rows").mkdir(parents=True)
    pq.write_table(rows, tmp_path / ".written.partial" / "rows" / "part-00001.parquet")
    (tmp_path / "out").mkdir()
    pq.write_table(rows, tmp_path / "out" / "part-00007.parquet")
    written = scored("written", reserved_columns=("user", "label", "weight"), output=str(tmp_path / "out"))
    assert pq.read_table(written.rows).equals(rows)
    assert pq.read_table(tmp_path / "out").equals(rows)
    # As the stages score and score_champion do: the split as it was checked, the needed columns alone.
    events: list[Event] = []
    of_split = predict.Request(
        output=tmp_path / "score",
        config=predict.Config(batch_size=40, reserved_columns=("user", "label", "weight")),
        source="the split",
        source_digest=data.digest,
        data=data,
        split="test",
        model=exported,
        stage="score",
        **COMMON,
    )
    assert pq.read_table(predict.run(of_split, events.append).rows).equals(rows)
    assert {event.stage for event in events} == {"score"}
    with pytest.raises(ValueError, match="already has a column 'score'"):
        scored("again")
    with pytest.raises(ValueError, match="no column usr, which the model's features or predict.reserved_columns need"):
        scored("missing", reserved_columns=("usr",))
    assert not (tmp_path / "again").exists()


def test_a_ranker_is_exported_alone_in_either_format_and_measured_on_any_table(data, trained, tmp_path):
    ranking, source = Config(sample_weight="weight", group="user"), str(*data.folders("test"))

    def exported(name, config, **fields):
        common = {"output": tmp_path / name, "model": MODEL, "checkpoint": trained, **COMMON}
        return export.run(export.Request(config=config, **common, **fields), silent)

    def scores(model):
        request = tables.Request(
            output=tmp_path / ".scores.work" / "predict",
            stage="predict",
            model=model,
            source=source,
            table=str(tmp_path / "scores"),
            reserved_columns=("user",),
            output_columns={"score": "logit"},
            batch_size=40,
            **COMMON,
        )
        tables.run(request, silent)
        return pq.read_table(tmp_path / "scores")

    def measured(model, **fields):
        given = {"config": evaluate.Config(batch_size=30), "ranking": ranking, "model": MODEL, "exported": model}
        request = evaluate.Request(
            output=tmp_path / "evaluate", sharding={}, num_ranks=1, seed=1, **COMMON, **(given | fields)
        )
        return evaluate.run(request, silent)

    script, program = exported("script", {}), exported("program", {"format": "pt2"})
    rows = scores(script)
    assert rows.column_names == ["user", "logit"]
    assert rows["user"].to_pylist() == pq.read_table(source)["user"].to_pylist()
    np.testing.assert_allclose(rows["logit"].to_numpy(), scores(program)["logit"].to_numpy(), atol=1e-5)
    small = exported("int8", {"table_dtype": "int8"}, data=data, ranking=ranking)
    of_state = evaluated(data, trained, tmp_path / "of_state", split="test").metrics
    assert small.cost is not None
    assert (small.cost.metric, small.cost.num_rows) == ("auc", 101)
    assert small.cost.trained == pytest.approx(of_state.auc, abs=1e-6)
    assert small.cost.exported == pytest.approx(of_state.auc, abs=0.02)
    found = measured(program, source=source)
    assert found.metrics.figures() == pytest.approx(of_state.figures(), abs=1e-5)
    assert (found.split, found.num_rows) == (source, 101)
    with pytest.raises(ValueError, match=r"column 'half' holds 0\.5 in row 0"):
        measured(script, source=source, ranking=Config(label="half"))
    with pytest.raises(ValueError, match=r"no column lable, which the features, the label"):
        measured(script, source=source, ranking=Config(label="lable"))


def test_a_loss_and_a_metric_of_ones_own_are_a_file_each_and_a_config(own_package, data, trained, tmp_path):
    request = train_request(
        data, tmp_path / "train", num_epochs=2, evaluate_every_steps=None, early_stopping_patience=None
    )
    loss = {"kind": "shop.focal", "gamma": 0.0}
    request = train.Request.model_validate(json.loads(request.model_dump_json(exclude={"loss"})) | {"loss": loss})
    made = train.run(request, silent)
    # Without a discount it is binary cross-entropy, with one easy rows count less.
    plain = train.run(
        request.model_copy(update={"loss": binary_cross_entropy.Config(), "output": tmp_path / "p"}), silent
    )
    assert made.loss == pytest.approx(plain.loss, rel=1e-6)
    loss["gamma"] = 2.0
    fields = json.loads(request.model_dump_json()) | {"loss": loss, "output": str(tmp_path / "focal")}
    assert train.run(train.Request.model_validate(fields), silent).loss < 0.5 * plain.loss

    config = evaluate.Config.model_validate({"split": "valid", "metrics": [{"kind": "shop.brier"}]})
    found = evaluated(data, trained, tmp_path / "evaluate", config=config)
    rows = pq.read_table(data.folders("valid")[0])
    assert found.metrics.others.keys() == {"shop.brier"}
    assert found.metrics.figures()["shop.brier"] == found.metrics.others["shop.brier"]
    # Of always predicting the weighted share of positives it would be p (1 - p).
    share = np.average(rows["label"].to_numpy(), weights=rows["weight"].to_numpy())
    assert 0 < found.metrics.others["shop.brier"] < share * (1 - share)
    assert RankingEvaluation.load(found.path) == found
    with pytest.raises(ValidationError, match="metrics: auc is measured already; leave it out"):
        evaluate.Config.model_validate({"metrics": [{"kind": "auc"}]})


def test_the_brier_score_of_ones_own_by_hand(own_package):
    module = lookup.component("recsys_core.metrics.ranking", "shop.brier")
    rows = Scored(np.array([0.0, np.log(3)]), np.array([True, False]), np.array([1.0, 3.0]), None)
    # Probabilities 1/2 and 3/4: (1/4 + 3 * 9/16) / 4.
    assert module.Metric(module.Config()).measure(rows) == pytest.approx((1 / 4 + 27 / 16) / 4)
