"""The gate: each condition by hand, at its edge, and in words."""

import datetime
from collections.abc import Mapping
from pathlib import Path

import pytest
from pydantic import ValidationError

from recsys_core import gate
from recsys_core.artifacts import Evaluation, RetrievalMetrics
from recsys_core.gate import Config, decide


def ranking(rate: float) -> RetrievalMetrics:
    by_k = {"20": rate / 2, "50": rate}
    return RetrievalMetrics(hit_rate=by_k, recall=by_k, ndcg=by_k, mrr=by_k, coverage=by_k)


def evaluation(exact: float = 0.2, popularity: float = 0.1, champion: float | None = 0.2, ann: float = 0.95):
    return Evaluation(
        path=Path(),
        key="k",
        digest="d",
        num_rows=1,
        config_hash="c",
        code_version="v",
        files=(),
        day=datetime.date(2024, 1, 1),
        ground_truth_day=datetime.date(2024, 1, 2),
        ground_truth_digest="g",
        num_queries=1,
        num_ground_truth=1,
        num_items=1,
        protocol="",
        exact=ranking(exact),
        approximate=ranking(exact),
        popularity=ranking(popularity),
        item_item=ranking(popularity),
        champion=None if champion is None else ranking(champion),
        ann_recall={"20": ann, "50": ann},
        ann_recall_by_nprobe={},
        hit_rate_by_popularity={},
    )


def test_what_passes_says_why():
    decision = decide(Config(minimum=0.2), evaluation())
    assert decision.passed
    assert decision.reasons == (
        "hit_rate@50 is 0.2000, at or above the minimum of 0.2000.",
        "hit_rate@50 is 0.2000, 2.00 times the popularity baseline's 0.1000, at or above the lift of 1.00 asked for.",
        (
            "hit_rate@50 is 0.2000, +0.0% from the champion's 0.2000 on the same ground truth; "
            "the largest drop allowed is 10.0%."
        ),
        "The index returns 0.9500 of the exact top 50, at or above the minimum of 0.9000.",
    )


@pytest.mark.parametrize(
    ("config", "measured", "reason"),
    [
        ({"minimum": 0.2001}, {}, "hit_rate@50 is 0.2000, below the minimum of 0.2001."),
        (
            {"minimum_lift": 2.5},
            {},
            "hit_rate@50 is 0.2000, 2.00 times the popularity baseline's 0.1000, below the lift of 2.50 asked for.",
        ),
        (
            {"maximum_drop": 0.1},
            {"champion": 0.25},
            (
                "hit_rate@50 is 0.2000, -20.0% from the champion's 0.2500 on the same ground truth; "
                "the largest drop allowed is 10.0%."
            ),
        ),
        ({}, {"ann": 0.5}, "The index returns 0.5000 of the exact top 50, below the minimum of 0.9000."),
    ],
)
def test_a_condition_that_fails_alone_is_the_only_reason(config: Mapping, measured: Mapping, reason: str):
    decision = decide(Config.model_validate(config), evaluation(**measured))
    assert not decision.passed
    assert decision.reasons == (reason,)


def test_every_failed_condition_is_reported():
    assert len(decide(Config(minimum=0.5), evaluation(0.01, 0.1, 0.2, 0.1)).reasons) == 4


def test_the_drop_is_relative_and_its_edge_is_allowed():
    assert decide(Config(maximum_drop=0.5), evaluation(exact=0.125, champion=0.25)).passed
    assert not decide(Config(maximum_drop=0.5), evaluation(exact=0.124, champion=0.25)).passed
    assert decide(Config(maximum_drop=0.1), evaluation(exact=0.18, champion=0.2)).passed
    assert not decide(Config(maximum_drop=0), evaluation(exact=0.199, champion=0.2)).passed


def test_the_first_model_has_no_champion_to_be_held_against():
    decision = decide(Config(), evaluation(champion=None))
    assert decision.passed
    assert "There is no champion to compare with." in decision.reasons


def test_baselines_and_champions_that_find_nothing_are_no_division_by_zero():
    decision = decide(Config(), evaluation(popularity=0, champion=0))
    assert decision.passed
    assert any("against the popularity baseline's 0.0000" in reason for reason in decision.reasons)


def test_conditions_can_be_left_out():
    off = Config(minimum=None, maximum_drop=None, minimum_lift=None, minimum_ann_recall=None)
    assert decide(off, evaluation(0, 1, 1, 0)) == gate.Decision(passed=True, reasons=())


def test_metric_and_k_are_the_ones_asked_for():
    decision = decide(Config(metric="ndcg", k=20, minimum=0.1), evaluation())
    assert decision.reasons[0] == "ndcg@20 is 0.1000, at or above the minimum of 0.1000."


def test_a_k_that_was_not_measured_is_named():
    with pytest.raises(ValueError, match=r"gate\.k: 7 was not measured; set it to one of hitrate\.ks \(20, 50\)"):
        decide(Config(k=7), evaluation())


def test_metrics_that_are_no_quality_cannot_be_gated():
    with pytest.raises(ValidationError):
        Config.model_validate({"metric": "coverage"})
