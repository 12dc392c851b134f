"""AUC, GAUC, logloss and normalised entropy, by hand and against the definition."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_core import lookup
from recsys_core.artifacts import LabelledMetrics
from recsys_core.metrics.bootstrap import draws
from recsys_core.metrics.ranking import (
    CATALOGUE,
    Metric,
    Scored,
    always,
    calibration_bins,
    cross_entropy,
    direction,
    roc,
    sigmoid,
)
from recsys_core.metrics.ranking.auc import auc
from recsys_core.metrics.ranking.base import build
from recsys_core.metrics.ranking.gauc import gauc

ONES = np.ones(4)


def _pairs(scores, labels, weights):
    """The definition: every pair of a positive and a negative."""
    won = total = 0.0
    for s, y, w in zip(scores, labels, weights, strict=True):
        for t, z, v in zip(scores, labels, weights, strict=True):
            if y and not z:
                total += w * v
                won += w * v * (1.0 if s > t else 0.5 if s == t else 0.0)
    return won / total if total else None


def test_auc_by_hand():
    # Positives .8 and .4, negatives .4 and .1: of four pairs three are won and one is a tie.
    scores, labels = np.array([0.8, 0.4, 0.4, 0.1]), np.array([True, True, False, False])
    assert auc(scores, labels, ONES) == pytest.approx(3.5 / 4)
    # The tied negative counts three times: pairs .8>.4 (3), .8>.1 (1), .4=.4 (3 / 2), .4>.1 (1) of 8.
    assert auc(scores, labels, np.array([1.0, 1, 3, 1])) == pytest.approx(6.5 / 8)


def test_auc_is_undefined_for_rows_of_one_label():
    assert auc(np.array([1.0, 2.0]), np.array([True, True]), np.ones(2)) is None
    assert auc(np.zeros(0), np.zeros(0, bool), np.zeros(0)) is None
    assert gauc(np.array([1.0, 2.0]), np.array([True, False]), np.ones(2), np.array([1, 2])) is None


def test_gauc_is_weighted_by_rows_and_leaves_out_groups_of_one_label():
    scores = np.array([0.9, 0.1, 0.2, 0.7, 0.3, 0.5])
    labels = np.array([True, False, True, False, False, True])
    groups = np.array([7, 7, 3, 3, 3, 9])
    # Group 7: AUC 1 of 2 rows; group 3: its positive .2 loses against .7 and .3, 0 of 3 rows; group 9: one label.
    assert gauc(scores, labels, np.ones(6), groups) == pytest.approx(2 / 5)


def test_logloss_normalized_entropy_and_calibration_by_hand():
    logits = np.log(np.array([0.8, 0.5, 0.2]) / (1 - np.array([0.8, 0.5, 0.2])))
    found = Scored(logits, np.array([True, False, False]), np.array([1.0, 1, 2]), None).metrics()
    loss = -(np.log(0.8) + np.log(0.5) + 2 * np.log(0.8)) / 4
    base = -(0.25 * np.log(0.25) + 0.75 * np.log(0.75))
    assert found.logloss == pytest.approx(loss)
    assert found.normalized_entropy == pytest.approx(loss / base)
    assert found.calibration == pytest.approx((0.8 + 0.5 + 2 * 0.2) / 1)
    assert (found.num_rows, found.num_positives, found.gauc) == (3, 1, None)
    # A probability of .5 predicts a positive, which is wrong here: a weight of 3 of 4 is right.
    assert found.accuracy == 3 / 4


def _measured(kind, scored, **options):
    config = lookup.component(CATALOGUE, kind).Config.model_validate(options)
    return scored.metrics([config]).others[kind]


def test_errors_of_probabilities_by_hand():
    # Probabilities .75 for a positive, .5 and .25 for negatives; the last one weighs 2.
    rows = Scored(np.log([3, 1, 1 / 3]), np.array([True, False, False]), np.array([1.0, 1, 2]), None)
    assert _measured("mean_absolute_error", rows) == pytest.approx((0.25 + 0.5 + 2 * 0.25) / 4)
    assert _measured("mean_squared_error", rows) == pytest.approx((0.0625 + 0.25 + 2 * 0.0625) / 4)
    # Below .5: .5 promised of 0 positives; from .5 on: 1.25 promised of 1.
    assert _measured("expected_calibration_error", rows, num_bins=2, bins="width") == pytest.approx((0.5 + 0.25) / 4)
    # The lower two of three rows: 1 promised of 0; the highest: .75 of 1.
    assert _measured("expected_calibration_error", rows, num_bins=2) == pytest.approx((1 + 0.25) / 4)
    assert _measured("expected_calibration_error", rows, num_bins=1) == pytest.approx((1.75 - 1) / 4)


def test_average_precision_by_hand():
    # By falling score: +, then - and + at one score, then - of weight 2, then +: precisions 1, 2/3, 3/6.
    logits, labels = np.array([5.0, 4, 4, 3, 2]), np.array([True, False, True, False, True])
    rows = Scored(logits, labels, np.array([1.0, 1, 1, 2, 1]), None)
    assert _measured("pr_auc", rows) == pytest.approx((1 + 2 / 3 + 3 / 6) / 3)
    shuffled = np.array([3, 1, 4, 0, 2])
    assert _measured("pr_auc", Scored(*(c[shuffled] for c in rows[:3]), None)) == pytest.approx(13 / 18)
    assert _measured("pr_auc", rows._replace(logits=np.zeros(5))) == pytest.approx(3 / 6)
    assert _measured("pr_auc", rows._replace(labels=np.zeros(5, bool))) is None


def test_records_of_before_accuracy_was_measured_are_read():
    found = Scored(np.zeros(2), np.array([True, False]), np.ones(2), None).metrics()
    old = {name: value for name, value in found.model_dump().items() if name != "accuracy"}
    assert LabelledMetrics.model_validate(old) == found.model_copy(update={"accuracy": None})


def test_a_metric_says_where_it_is_better():
    directions = {kind: direction(kind) for kind in lookup.kinds(CATALOGUE)}
    assert directions == {
        "accuracy": "up",
        "auc": "up",
        "calibration": "one",
        "expected_calibration_error": "down",
        "gauc": "up",
        "logloss": "down",
        "mean_absolute_error": "down",
        "mean_squared_error": "down",
        "normalized_entropy": "down",
        "pr_auc": "up",
        "xauc": "up",
    }
    assert set(always()) == LabelledMetrics.model_fields.keys() - {"num_rows", "num_positives", "others"}


def test_extreme_logits_stay_finite():
    assert cross_entropy(np.array([1e4, -1e4]), np.array([False, False])).tolist() == [1e4, 0.0]
    assert sigmoid(np.array([1e4, -1e4, 0.0])).tolist() == [1.0, 0.0, 0.5]


def test_rows_that_weigh_nothing_cannot_be_measured():
    with pytest.raises(ValueError, match="2 rows with a total weight of 0"):
        Scored(np.zeros(2), np.array([True, False]), np.zeros(2), None).metrics()


def test_parts_join_to_the_same_figures_in_any_cut():
    rng = np.random.default_rng(0)
    rows = Scored(rng.normal(size=50).round(1), rng.random(50) < 0.4, rng.random(50), rng.integers(0, 5, 50))
    parts = [Scored(*(column[a:b] for column in rows[:4])) for a, b in ((0, 7), (7, 7), (7, 50))]
    assert Scored.joined(parts).metrics() == rows.metrics()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.integers(0, 3), st.integers(0, 2)), max_size=14))
def test_auc_and_gauc_equal_the_definition(rows):
    scores, labels, weights, groups = (np.array([row[i] for row in rows]) for i in range(4))
    labels, weights, groups = labels.astype(bool), weights.astype(float), groups.astype(np.int64)
    expected = _pairs(scores, labels, weights)
    found = auc(scores, labels, weights)
    assert found == (None if expected is None else pytest.approx(expected))
    by_group = [
        (_pairs(*(c[groups == g] for c in (scores, labels, weights))), weights[groups == g].sum()) for g in range(3)
    ]
    mixed = [(value, share) for value, share in by_group if value is not None]
    mean = sum(v * s for v, s in mixed) / sum(s for _, s in mixed) if mixed else None
    assert gauc(scores, labels, weights, groups) == (None if mean is None else pytest.approx(mean))


def test_the_area_below_the_roc_curve_is_the_auc():
    rng = np.random.default_rng(1)
    labels = rng.random(300) < 0.3
    rows = Scored((rng.normal(size=300) + labels).round(1), labels, rng.random(300), None)
    false, true = roc(rows)
    assert (false[0], true[0], false[-1], true[-1]) == (0, 0, pytest.approx(1), pytest.approx(1))
    assert np.trapezoid(true, false) == pytest.approx(rows.metrics().auc)


def test_calibration_bins_hold_equally_many_rows():
    rows = Scored(np.array([-9.0, -8, 8, 9]), np.array([False, False, True, True]), ONES, None)
    predicted, observed, counts = calibration_bins(rows, num_bins=2)
    assert (observed.tolist(), counts.tolist()) == ([0.0, 1.0], [2, 2])
    assert predicted[0] < 0.001
    assert predicted[1] > 0.999


# Bins of equally many rows are not made anew for each resample.
OPTIONS = {"expected_calibration_error": {"bins": "width", "num_bins": 5}}


@pytest.mark.parametrize("kind", lookup.kinds(CATALOGUE))
def test_a_resampled_metric_is_that_of_reweighted_rows(kind):
    rng = np.random.default_rng(2)
    units = rng.integers(0, 9, 60)
    labels, weights = rng.random(60) < 0.4, rng.choice([0.0, 0.5, 1.0], 60)
    # Groups are of one unit each, and a unit may have several.
    rows = Scored(rng.normal(size=60).round(1), labels, weights, 20 - 2 * units - (np.arange(60) > 30))
    (counts,) = draws(9, num_resamples=40)
    metric = build(lookup.component(CATALOGUE, kind).Config.model_validate(OPTIONS.get(kind, {})))
    slow = Metric.resampled(metric, rows, units, 9)(counts)
    assert metric.resampled(rows, units, 9)(counts) == pytest.approx(slow, nan_ok=True)
    assert np.isfinite(slow).any()
    nothing = np.zeros((9, 1))
    assert np.isnan(metric.resampled(rows, units, 9)(nothing)).all()
    assert np.isnan(Metric.resampled(metric, rows, units, 9)(nothing)).all()
