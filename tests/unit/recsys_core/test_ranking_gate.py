"""The gate of ranking: directions, baselines, calibration, and what becomes of metrics that are undefined."""

import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from recsys_core.artifacts import Difference, LabelledMetrics, LabelledSlice, RankingEvaluation
from recsys_core.gate import RankingConfig, decide


def metrics(auc=0.75, logloss=0.4, calibration=1.1, num_positives=300, **others):
    fields = {"gauc": None, "normalized_entropy": logloss / 0.5, "accuracy": 0.8, "num_rows": 1_000}
    return LabelledMetrics(
        **fields | {"auc": auc, "logloss": logloss, "calibration": calibration, "num_positives": num_positives} | others
    )


def evaluation(margin=0.001, champion=None, baselines=("rate", "item_rate"), slices=None, **own):
    mine, theirs = metrics(**own), champion or metrics()
    names = [name for name in ("auc", "gauc", "logloss") if getattr(mine, name) is not None]
    differences = {}
    for name in names if champion else ():
        ahead = getattr(mine, name) - getattr(theirs, name)
        differences[name] = Difference(value=ahead, low=ahead - margin, high=ahead + margin)
    known = {"rate": metrics(auc=0.5, logloss=0.5), "item_rate": metrics(auc=0.6, logloss=0.45)}
    if mine.auc is None:
        known = {name: metrics(auc=None, logloss=0.5) for name in known}
    return RankingEvaluation(
        path=Path(),
        key="k",
        digest="d",
        num_rows=1_000,
        config_hash="c",
        code_version="v",
        files=(),
        split="test",
        metrics=mine,
        champion=champion,
        baselines={name: known[name] for name in baselines},
        differences=differences,
        num_units=80,
        has_groups=True,
        slices=slices or {},
    )


def reasons(config, found):
    decision = decide(RankingConfig.model_validate(config), found)
    return decision.passed, decision.reasons


def test_what_passes_says_why():
    config = {"minimum": 0.7, "baseline": "item_rate", "minimum_lift": 1.2, "calibration": [0.8, 1.25]}
    assert reasons(config, evaluation(champion=metrics(auc=0.752))) == (
        True,
        (
            "auc is 0.7500, at or above the minimum of 0.7000.",
            "auc is 0.7500, 1.25 times the item_rate baseline's 0.6000, at or above the lift of 1.20 asked for.",
            (
                "auc is 0.7500, -0.3% from the champion's 0.7520 on the same rows (-0.4% to -0.1% "
                "with 95% confidence, over 80 groups); the largest drop allowed is 1.0%."
            ),
            "calibration (predicted positives over actual ones) is 1.1000, within 0.8000 to 1.2500.",
        ),
    )


@pytest.mark.parametrize(
    ("config", "found", "reason"),
    [
        ({"minimum": 0.8}, evaluation(), "auc is 0.7500, below the minimum of 0.8000."),
        (
            {"minimum_lift": 1.6},
            evaluation(),
            "auc is 0.7500, 1.50 times the rate baseline's 0.5000, below the lift of 1.60 asked for.",
        ),
        (
            {},
            evaluation(champion=metrics(auc=0.77)),
            (
                "auc is 0.7500, -2.6% from the champion's 0.7700 on the same rows (-2.7% to -2.5% "
                "with 95% confidence, over 80 groups); the largest drop allowed is 1.0%."
            ),
        ),
        ({"metric": "logloss", "maximum": 0.39}, evaluation(), "logloss is 0.4000, above the maximum of 0.3900."),
        (
            {"metric": "logloss", "minimum_lift": 1.3},
            evaluation(),
            "logloss is 0.4000, 1.25 times better than the rate baseline's 0.5000, below the lift of 1.30 asked for.",
        ),
        (
            {"metric": "logloss"},
            evaluation(champion=metrics(logloss=0.39)),
            (
                "logloss is 0.4000, +2.6% from the champion's 0.3900 on the same rows (+2.3% to +2.8% "
                "with 95% confidence, over 80 groups); the largest rise allowed is 1.0%."
            ),
        ),
        (
            {"calibration": [0.9, 1.05]},
            evaluation(),
            "calibration (predicted positives over actual ones) is 1.1000, outside of 0.9000 to 1.0500.",
        ),
    ],
)
def test_a_condition_that_fails_alone_is_the_only_reason(config, found, reason):
    assert reasons(config, found) == (False, (reason,))


@pytest.mark.parametrize(
    ("config", "champion", "margin", "held"),
    [
        # The edge: exactly 1 % less AUC, or more loss, and no chance in it.
        ({}, {"auc": 0.75 / 0.99}, 0, True),
        ({"metric": "logloss"}, {"logloss": 0.4 / 1.01}, 0, True),
        # Better or worse, but it may be chance.
        ({}, {"auc": 0.75}, 0.02, None),
        ({"metric": "logloss"}, {"logloss": 0.38}, 0.03, None),
        ({"metric": "logloss"}, {"logloss": 0.38}, 0.01, False),
        ({"metric": "logloss"}, {"logloss": 0.42}, 0.02, True),
    ],
)
def test_the_direction_is_the_metric_s(config, champion, margin, held):
    found = decide(RankingConfig.model_validate(config), evaluation(margin, metrics(**champion))).conditions
    assert {one.key: one.held for one in found}["gate.maximum_drop"] is held


@pytest.mark.parametrize(("num_positives", "which"), [(0, "none"), (1_000, "every one")])
def test_an_auc_that_is_undefined_meets_no_condition_and_says_so_once(num_positives, which):
    found = evaluation(auc=None, calibration=None, num_positives=num_positives, champion=metrics(auc=None))
    reason = (
        f"auc is undefined, so minimum, minimum_lift, maximum_drop are not met: of the 1,000 rows {which} is positive."
    )
    assert reasons({"minimum": 0.6}, found) == (False, (reason,))
    assert reasons({"maximum_drop": None, "minimum_lift": None, "calibration": [0.5, 2]}, found) == (
        False,
        (f"calibration is undefined, so calibration is not met: of the 1,000 rows {which} is positive.",),
    )
    assert reasons({"metric": "logloss", "maximum_drop": None}, found)[0]


def test_a_gauc_without_groups_of_both_labels_says_so():
    reason = "gauc is undefined, so minimum_lift, maximum_drop are not met: no group has rows of both labels."
    assert reasons({"metric": "gauc"}, evaluation()) == (False, (reason,))


def test_without_a_past_the_lift_is_open():
    passed, found = reasons({"minimum": 0.7}, evaluation(baselines=()))
    assert passed
    assert "There are no past rows to make the baseline rate of, so the lift is not known." in found
    assert not reasons({"maximum_drop": None}, evaluation(baselines=()))[0]


@pytest.mark.parametrize(
    ("limits", "own", "reason"),
    [
        ({"minimum": 0.6}, metrics(auc=0.65), None),
        ({"minimum": 0.66}, metrics(auc=0.65), "auc of new_users is 0.6500, below the minimum of 0.6600."),
        (
            {"minimum": 0.6},
            metrics(auc=None, num_positives=0),
            "auc of new_users is undefined, so minimum is not met: of the 1,000 rows none is positive.",
        ),
        (
            {"minimum": 0.6},
            None,
            "auc of new_users is undefined, so minimum is not met: there is no such row with a weight.",
        ),
        ({"maximum_drop": 0.1}, None, None),
        (
            {"maximum_drop": 0.1},
            metrics(auc=0.6),
            (
                "auc of new_users is 0.6000, -20.0% from the champion's 0.7500 on the same rows (-20.0% to -20.0% "
                "with 95% confidence, over 30 groups); the largest drop allowed is 10.0%."
            ),
        ),
    ],
)
def test_slices_have_limits_of_their_own(limits, own, reason):
    differences = {}
    if own is not None and own.auc is not None:
        ahead = own.auc - 0.75
        differences["auc"] = Difference(value=ahead, low=ahead, high=ahead)
    part = LabelledSlice(
        num_units=30, has_groups=True, metrics=own, champion=own and metrics(), differences=differences
    )
    found = evaluation(champion=metrics(), slices={"new_users": part})
    passed, given = reasons({"slices": {"new_users": limits}}, found)
    assert passed == (reason is None)
    assert reason is None or given == (reason,)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"metric": "logloss", "minimum": 0.1}, "minimum: logloss is better the lower it is; set maximum instead"),
        ({"maximum": 0.1}, "maximum: auc is better the higher it is; set minimum instead"),
        (
            {"slices": {"new_users": {"maximum": 0.1}}},
            r"slices\.new_users\.maximum: auc is better the higher it is; set minimum instead",
        ),
        ({"calibration": [1.2, 0.8]}, r"\[1\.2, 0\.8\]: give the least and the most, such as"),
        ({"metric": "calibration"}, r"metric: calibration is best near 1; set gate\.calibration, and another metric"),
        ({"metric": "aucc"}, "unknown kind 'aucc' .*did you mean 'auc'"),
    ],
)
def test_limits_that_mean_nothing_are_refused(config, message):
    with pytest.raises(ValidationError, match=message):
        RankingConfig.model_validate(config)


def with_own(value, champion, baseline=-1.0):
    """A metric of one's own that is better the higher it is, and below 0, as a log likelihood."""
    mine, theirs, known = (metrics(others={"shop.likelihood": figure}) for figure in (value, champion, baseline))
    found = evaluation(champion=theirs).model_copy(update={"metrics": mine, "baselines": {"rate": known}})
    ahead = (
        None
        if None in (value, champion)
        else Difference(value=value - champion, low=value - champion, high=value - champion)
    )
    return found.model_copy(update={"differences": {} if ahead is None else {"shop.likelihood": ahead}})


@pytest.fixture
def own_metric(tmp_path, monkeypatch):
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "likelihood.py").write_text(
        """from recsys_core.artifacts import ComponentConfig
from recsys_core.metrics.ranking import base

class Config(ComponentConfig):
    kind: str = "shop.likelihood"

class Metric(base.Metric):
    direction = "up"

    def measure(self, scored):
        return -base.cross_entropy(scored.logits, scored.labels).mean()
"""
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in [name for name in sys.modules if name == "shop" or name.startswith("shop.")]:
        monkeypatch.delitem(sys.modules, name)


def test_a_metric_below_zero_is_compared_by_the_size_of_the_champion_s(own_metric):
    config = {"metric": "shop.likelihood", "minimum": -0.6, "maximum_drop": 0.1}
    assert reasons(config, with_own(-0.5, -0.4)) == (
        False,
        (
            (
                "shop.likelihood is -0.5000, -25.0% from the champion's -0.4000 on the same rows (-25.0% to -25.0% "
                "with 95% confidence, over 80 groups); the largest drop allowed is 10.0%."
            ),
        ),
    )
    passed, found = reasons(config, with_own(-0.4, -0.5))
    assert passed
    assert found[1] == (
        "shop.likelihood is below 0, where a lift, which is a ratio, says nothing; set gate.minimum_lift to null."
    )


def test_a_champion_whose_metric_is_undefined_is_not_compared_with(own_metric):
    config = {"metric": "shop.likelihood", "minimum": -0.6, "minimum_lift": None}
    passed, found = reasons(config, with_own(-0.5, None))
    assert passed
    assert found[1] == "shop.likelihood of the champion is undefined on the same rows, so nothing is compared."


def test_the_task_that_decides_is_named_in_the_sentences():
    slices = {"new_users": LabelledSlice(num_units=9, has_groups=True, metrics=None, champion=None, differences={})}
    config = {"task": "sale", "minimum": 0.8, "calibration": [0.8, 1], "slices": {"new_users": {"minimum": 0.5}}}
    passed, found = reasons(config, evaluation(slices=slices))
    assert not passed
    assert found == (
        "sale auc is 0.7500, below the minimum of 0.8000.",
        "sale calibration (predicted positives over actual ones) is 1.1000, outside of 0.8000 to 1.0000.",
        "sale auc of new_users is undefined, so minimum is not met: there is no such row with a weight.",
    )
