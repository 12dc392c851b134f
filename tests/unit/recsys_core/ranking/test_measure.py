"""A day's rows as the model, the champion and the past score them: by hand, and against plain loops."""

import datetime
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys_core import artifacts, readers
from recsys_core.artifacts import (
    Difference,
    LabelledData,
    LabelledDay,
    LabelledLog,
    LabelledSplit,
    NextDay,
    Predictions,
    Tail,
)
from recsys_core.gate import Part, RankingConfig, decide
from recsys_core.lookup import component
from recsys_core.metrics.ranking import CATALOGUE
from recsys_core.progress import silent
from recsys_core.ranking import ONLY, Config, measure, past

DAY = datetime.date(2024, 1, 2)
COMMON = {"config_hash": "c", "code_version": "v"}


class Inputs(artifacts.Request):
    what: str


class World:
    """Two days of the past and one that is measured, with a model that is good and a champion that is not."""

    def __init__(self, root, num_rows=400):
        self.root, rng = root, np.random.default_rng(7)
        self.days = {DAY - datetime.timedelta(days=1): self.rows(rng, 300, 0), DAY: self.rows(rng, 300, 3)}
        self.measured = self.rows(rng, num_rows, 6)
        truth = self.measured["label"].to_numpy()
        self.scores = {"model": truth + rng.normal(0, 1, num_rows), "champion": truth + rng.normal(0, 3, num_rows)}

    @staticmethod
    def rows(rng, num_rows, first_user):
        users = rng.integers(0, 40, num_rows) + first_user
        return pa.table(
            {
                "label": rng.random(num_rows) < 0.3,
                "weight": rng.choice([0.5, 1.0, 2.0], num_rows),
                "user": pa.array([None if user == 20 else f"u{user}" for user in users]),
                "item": rng.integers(0, 30, num_rows) + first_user,
                "city": rng.choice(["oslo", "rome"], num_rows),
            }
        )

    def commit(self, record, name, files, **fields):
        with artifacts.pending(self.root / name) as aside:
            for path, table in files.items():
                (aside.path / path).parent.mkdir(parents=True, exist_ok=True)
                pq.write_table(table, aside.path / path)
            return aside.commit(record, Inputs(output=self.root / name, what=name, **COMMON), num_rows=1, **fields)

    def predictions(self, name, table=None, columns=("score",)):
        scored = table = self.measured if table is None else table
        for column in columns:
            scored = scored.append_column(column, pa.array(self.scores[name][: len(table)], pa.float32()))
        # Parts as of two ranks: only the order of the rows is promised.
        parts = {"rows/part-00000.parquet": scored.slice(0, 130), "rows/part-00001.parquet": scored.slice(130)}
        return self.commit(Predictions, f"score_{name}", parts, source="s", model_digest="m")

    def request(self, *, champion=True, holdout=None, parts=None, columns=("score",), **ranking):
        last = DAY if holdout else DAY + datetime.timedelta(days=1)
        days = self.days if holdout is None else {day: rows for day, rows in self.days.items() if day < DAY}
        days = days | {last: self.measured}
        files = {f"ds={day}/part-0.parquet": rows for day, rows in days.items()}
        log = self.commit(
            LabelledLog,
            "ingest",
            files,
            source="log",
            day=DAY,
            days=tuple(
                LabelledDay(day=day, num_rows=len(rows), num_positives=1, folder=self.root / "ingest" / f"ds={day}")
                for day, rows in days.items()
            ),
            columns={},
        )
        # What is learned of the measured day is a part of its rows that prepare has written.
        train = f"rows/train/ds={DAY}"
        data = self.commit(
            LabelledData,
            "prepare",
            {f"{train}/part-00000.parquet": self.days[DAY]},
            root=self.root / "prepare",
            splits=(LabelledSplit(name="train", num_rows=300, num_positives=1, folders=(train,)),),
            columns={},
            engine_digest="e",
        )
        return measure.Request(
            output=self.root / "evaluate",
            ranking=Config(**{"sample_weight": "weight", "group": "user", "item": "item"} | ranking),
            log=log,
            data=data,
            holdout=holdout or NextDay(),
            predictions=self.predictions("model", columns=columns),
            champion=self.predictions("champion", columns=columns) if champion else None,
            parts=parts or {},
            **COMMON,
        )


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def weighted_auc(scores, rows):
    """Count pairs in plain loops; `rows` are (label, weight)."""
    won = pairs = 0.0
    for score, (label, weight) in zip(scores, rows, strict=True):
        for other, (its_label, its_weight) in zip(scores, rows, strict=True):
            if label and not its_label:
                pairs += weight * its_weight
                won += weight * its_weight * (1.0 if score > other else 0.5 if score == other else 0.0)
    return won / pairs


def test_values_are_measured_beside_the_past_s_means_and_decided_by(world):
    rng = np.random.default_rng(3)
    valued = [rows.set_column(0, "label", pa.array(rng.gamma(2, 3, len(rows)))) for rows in world.days.values()]
    world.days = dict(zip(world.days, valued, strict=True))
    truth = rng.gamma(2, 3, len(world.measured))
    world.measured = world.measured.set_column(0, "label", pa.array(truth))
    world.scores = {"model": truth + rng.normal(0, 1, 400), "champion": truth + rng.normal(0, 3, 400)}
    # By `value` they are measured: of an amount it is not the score.
    asked = world.request(columns=("value",), predicts="amount")
    found = measure.run(asked, silent)

    def error(predicted):
        return np.average((predicted - truth) ** 2, weights=world.measured["weight"].to_numpy())

    of_model, of_champion = (error(world.scores[name].astype(np.float32)) for name in ("model", "champion"))
    assert found.metrics.others["mean_squared_error"] == pytest.approx(of_model)
    assert found.champion.others["mean_squared_error"] == pytest.approx(of_champion)
    assert found.differences["mean_squared_error"].high < 0
    assert found.metrics.auc is None
    past_rows = pa.concat_tables(world.days.values())
    mean = np.average(past_rows["label"].to_numpy(), weights=past_rows["weight"].to_numpy())
    assert found.baselines["rate"].others["mean_squared_error"] == pytest.approx(error(mean))
    assert found.baselines["item_rate"].others["mean_squared_error"] > of_model
    assert sorted(path.name for path in asked.output.glob("*.parquet")) == ["calibration.parquet"]
    limits = {"metric": "mean_squared_error", "maximum": 1.5, "minimum_lift": 2.0, "calibration": (0.9, 1.1)}
    decision = decide(RankingConfig.model_validate(limits), found)
    assert decision.passed, decision.reasons
    refused = decide(RankingConfig.model_validate(limits | {"maximum": 0.5}), found)
    assert "mean_squared_error is 1." in refused.reasons[0] or "mean_squared_error is 0." in refused.reasons[0]
    assert measure.loss(asked.ranking, asked.predictions) == pytest.approx(of_model)


def test_the_model_and_the_champion_are_measured_on_the_same_rows(world):
    found = measure.run(world.request(), silent)
    rows = list(zip(world.measured["label"].to_pylist(), world.measured["weight"].to_pylist(), strict=True))
    scores = {name: values.astype(np.float32) for name, values in world.scores.items()}
    assert found.metrics.auc == pytest.approx(weighted_auc(scores["model"], rows))
    assert found.champion.auc == pytest.approx(weighted_auc(scores["champion"], rows))
    assert found.num_rows == 400
    assert found.has_groups
    assert found.num_units == len(set(world.measured["user"].to_pylist()))
    assert found.differences.keys() == {"auc", "gauc", "logloss", "normalized_entropy", "calibration", "accuracy"}
    for name, difference in found.differences.items():
        assert difference.value == pytest.approx(getattr(found.metrics, name) - getattr(found.champion, name))
        assert difference.low < difference.value < difference.high
    assert found.differences["auc"].low > 0
    assert measure.run(world.request(champion=False), silent).differences == {}
    assert {path.name for path in found.path.iterdir()} == {"manifest.json", "roc.parquet", "calibration.parquet"}


def test_the_loss_of_scored_rows_is_the_evaluations(world):
    request = world.request()
    evaluation = measure.run(request, silent)
    assert measure.loss(request.ranking, request.predictions) == pytest.approx(evaluation.metrics.logloss)


def test_a_metric_of_ones_own_is_measured_and_resampled_too(world, own_package):
    brier = component(CATALOGUE, "shop.brier").Config()
    found = measure.run(world.request().model_copy(update={"metrics": (brier,)}), silent)
    own, theirs, rate = (one.others["shop.brier"] for one in (found.metrics, found.champion, found.baselines["rate"]))
    assert own < theirs
    assert rate < 0.25
    difference = found.differences["shop.brier"]
    assert difference.value == pytest.approx(own - theirs)
    assert difference.low < difference.value < difference.high < 0
    gated = RankingConfig(metric="shop.brier", maximum=1, minimum_lift=None)
    decision = decide(gated, found)
    assert decision.passed
    assert decision.reasons[0] == f"shop.brier is {own:.4f}, at or below the maximum of 1.0000."
    better = found.model_copy(
        update={
            "metrics": found.champion,
            "champion": found.metrics,
            "differences": {
                name: Difference(value=-one.value, low=-one.high, high=-one.low)
                for name, one in found.differences.items()
            },
        }
    )
    assert "the largest rise allowed is 1.0%." in decide(gated, better).reasons[0]
    assert not decide(gated, better).passed


def test_rows_without_a_group_are_drawn_one_by_one(world):
    found = measure.run(world.request(group=None), silent)
    assert (found.num_units, found.has_groups, found.metrics.gauc) == (400, False, None)
    assert "gauc" not in found.differences


def test_the_baselines_are_past_rates_in_plain_loops(world):
    found = measure.run(world.request(), silent)
    earlier = [row for table in world.days.values() for row in table.to_pylist()]
    total = sum(row["weight"] for row in earlier)
    rate = (sum(row["weight"] * row["label"] for row in earlier) + 0.5) / (total + 1)
    losses = {"rate": 0.0, "item_rate": 0.0}
    for row in world.measured.to_pylist():
        mine = [other for other in earlier if other["item"] == row["item"]]
        own = (sum(o["weight"] * o["label"] for o in mine) + 20 * rate) / (sum(o["weight"] for o in mine) + 20)
        for name, probability in (("rate", rate), ("item_rate", own)):
            losses[name] -= row["weight"] * math.log(probability if row["label"] else 1 - probability)
    weight = sum(world.measured["weight"].to_pylist())
    assert {name: metrics.logloss for name, metrics in found.baselines.items()} == pytest.approx(
        {name: loss / weight for name, loss in losses.items()}
    )
    assert found.baselines["rate"].auc == 0.5
    assert measure.run(world.request(item=None), silent).baselines.keys() == {"rate"}


def test_one_of_several_tasks_is_compared_on_its_own_rows(world):
    """As if there were no other rows, and no other task."""
    bought = np.random.default_rng(1)

    def with_sales(table):
        sold = pa.array(bought.random(len(table)) < 0.5, mask=~table["label"].to_numpy())
        return table.append_column("bought", sold)

    world.days, world.measured = {day: with_sales(rows) for day, rows in world.days.items()}, with_sales(world.measured)
    tasks = {"click": {"label": "label"}, "sale": {"label": "bought", "given": "click"}}
    parts = {"oslo": Part(column="city", value="oslo"), "cold_items": Part()}
    names = ("score_click", "score_sale")
    request = world.request(champion=False, tasks=tasks, parts=parts)
    scored = {"predictions": world.predictions("model", columns=names)}
    scored["champion"] = world.predictions("champion", columns=names)
    request = request.model_copy(update=scored)
    first = measure.run(request, silent)
    found = measure.run(request.model_copy(update={"task": "sale"}), silent)
    assert (first.metrics, found.metrics) == (first.tasks["click"], found.tasks["sale"])
    assert found.tasks == first.tasks
    assert (found.num_rows, found.rows_digest) == (400, first.rows_digest)
    # What was shown and not clicked has been seen too.
    earlier = {row["item"] for rows in world.days.values() for row in rows.to_pylist()}
    clicked = world.measured["label"].to_numpy()
    cold = sum(row["item"] not in earlier for row in world.measured.filter(pa.array(clicked)).to_pylist())
    assert found.slices["cold_items"].metrics.num_rows == cold > 0

    def sales(table):
        return table.filter(table["label"]).drop_columns("label").rename_columns({"bought": "label"})

    world.scores = {name: scores[clicked] for name, scores in world.scores.items()}
    world.days, world.measured = {day: sales(rows) for day, rows in world.days.items()}, sales(world.measured)
    alone = measure.run(world.request(parts=parts), silent)
    assert found.num_units == alone.num_units
    for whole, own in ((found, alone), (found.slices["oslo"], alone.slices["oslo"])):
        assert own.metrics.figures() == pytest.approx(whole.metrics.figures())
        assert own.champion.figures() == pytest.approx(whole.champion.figures())
        assert own.differences["auc"].value == pytest.approx(whole.differences["auc"].value)
    for name in ("rate", "item_rate"):
        assert found.baselines[name].figures() == pytest.approx(alone.baselines[name].figures())


def test_a_day_without_rows_of_the_task_that_is_compared_is_refused(world):
    for day in world.days:
        world.days[day] = world.days[day].append_column("bought", world.days[day]["label"])
    world.measured = world.measured.append_column("bought", world.measured["label"])
    world.measured = world.measured.set_column(0, "label", pa.array(np.zeros(400, bool)))
    request = world.request(
        champion=False, tasks={"click": {"label": "label"}, "sale": {"label": "bought", "given": "click"}}
    )
    scored = world.predictions("model", columns=("score_click", "score_sale"))
    with pytest.raises(
        ValueError, match="of the 400 rows that are measured none is of the task 'sale' .its given 'click'"
    ):
        measure.run(request.model_copy(update={"predictions": scored, "task": "sale"}), silent)


def test_the_past_of_a_day_s_tail_is_the_days_before_and_what_is_learned_of_the_day(world):
    found = measure.run(world.request(holdout=Tail(hours=3)), silent)
    assert found.baselines == measure.run(world.request(), silent).baselines


def test_slices_are_the_rows_that_they_say(world):
    parts = {
        "new_users": Part(),
        "cold_items": Part(),
        "oslo": Part(column="city", value="oslo"),
        "nowhere": Part(column="city", value="atlantis"),
    }
    found = measure.run(world.request(parts=parts), silent)
    earlier = [row for table in world.days.values() for row in table.to_pylist()]
    users, items = ({row[name] for row in earlier} for name in ("user", "item"))
    keep = {
        "new_users": lambda row: row["user"] not in users,
        "cold_items": lambda row: row["item"] not in items,
        "oslo": lambda row: row["city"] == "oslo",
    }
    for name, keeps in keep.items():
        kept = np.array([keeps(row) for row in world.measured.to_pylist()])
        rows = [(row["label"], row["weight"]) for row in world.measured.filter(pa.array(kept)).to_pylist()]
        part = found.slices[name]
        assert part.metrics.num_rows == kept.sum() > 0
        assert part.num_units == len(set(world.measured.filter(pa.array(kept))["user"].to_pylist()))
        for scores, own in ((world.scores["model"], part.metrics), (world.scores["champion"], part.champion)):
            assert own.auc == pytest.approx(weighted_auc(scores.astype(np.float32)[kept], rows))
        assert part.differences["auc"].value == pytest.approx(part.metrics.auc - part.champion.auc)
        assert (part.differences["auc"].low is None) == (part.num_units < 20)
    assert found.slices["oslo"].differences["auc"].low is not None
    assert found.slices["nowhere"].metrics is None
    assert None in users  # rows without a user are of one that is known


def test_rows_of_one_label_have_metrics_that_are_undefined_and_no_difference(world):
    table = world.measured.set_column(0, "label", pa.array(np.zeros(400, bool)))
    request = world.request()
    request = request.model_copy(
        update={
            name: world.predictions(key, table) for name, key in (("predictions", "model"), ("champion", "champion"))
        }
    )
    found = measure.run(request, silent)
    assert (found.metrics.auc, found.metrics.num_positives) == (None, 0)
    assert found.differences.keys() == {"logloss", "accuracy"}


def test_without_a_past_there_are_no_baselines(world):
    world.days = {DAY: world.days[DAY].slice(0, 0)}
    assert measure.run(world.request(), silent).baselines == {}


@pytest.mark.parametrize("change", ["order", "number"])
def test_a_champion_of_other_rows_is_refused(world, change):
    rows = world.measured.slice(0, 399) if change == "number" else world.measured.take(np.arange(400)[::-1])
    request = world.request().model_copy(update={"champion": world.predictions("champion", rows)})
    with pytest.raises(ValueError, match="the champion scored .* rows and the model 400, which are not the same"):
        measure.run(request, silent)
    assert not request.output.exists()


def test_the_digest_of_the_rows_is_of_their_values_alone(world):
    first = measure.run(world.request(), silent).rows_digest
    world.scores["model"] = -world.scores["model"]
    assert measure.run(world.request(), silent).rows_digest == first
    world.measured = world.measured.set_column(4, "city", pa.array(["rome"] * 400))
    assert measure.run(world.request(), silent).rows_digest == first
    world.measured = world.measured.set_column(3, "item", pa.array(np.arange(400)))
    assert measure.run(world.request(), silent).rows_digest != first


def test_ids_are_the_same_whatever_the_type_of_a_day(tmp_path):
    for name, items in (("a", pa.array([1, 2], pa.int32())), ("b", pa.array(["2", "3"]))):
        pq.write_table(pa.table({"label": [1, 0], "item": items}), tmp_path / f"{name}.parquet")
    tables = [readers.build(readers.infer(str(tmp_path / f"{name}.parquet"))) for name in "ab"]
    found = past.read(tables, Config(item="item"), ONLY)
    assert (found.rows, found.positives, found.rate) == (4, 2, 0.5)
    assert found.is_cold(pa.array([1, 3, 4])).tolist() == [False, False, True]
    # Of item 2 one negative and one positive row: halfway between; of item 4 nothing: the rate of all.
    assert found.item_rates(pa.array(["2", "1", "4"])) == pytest.approx([11 / 22, 11 / 21, 0.5])
