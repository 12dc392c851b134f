"""Metrics of values, by hand and against a slow oracle."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_core.metrics.ranking import Scored, all_of, calibration_bins, mean_squared_error, write_pictures, xauc


def _scored(predicted, labels, weights=None):
    ones = np.ones(len(labels)) if weights is None else np.array(weights, dtype=float)
    return Scored(np.array(predicted, dtype=float), np.array(labels, dtype=float), ones, None, values=True)


def test_what_every_evaluation_of_values_has_by_hand():
    found = _scored([1.0, 2.0, 6.0], [2.0, 0.0, 4.0], weights=[1, 1, 2]).metrics()
    assert found.others == {"mean_squared_error": (1 + 4 + 2 * 4) / 4, "mean_absolute_error": (1 + 2 + 2 * 2) / 4}
    assert found.calibration == pytest.approx((1 + 2 + 12) / (2 + 8))
    assert (found.num_rows, found.num_positives) == (3, 2)
    assert (found.auc, found.logloss, found.normalized_entropy, found.accuracy) == (None, None, None, None)
    assert found.figures().keys() >= {"mean_squared_error", "calibration"}
    assert "auc" not in found.figures()


def test_metrics_are_taken_of_what_they_are_of():
    others = (xauc.Config(), mean_squared_error.Config())
    assert "xauc" not in all_of(others)
    assert "auc" not in all_of(others, values=True)
    assert list(all_of(others, values=True)) == ["calibration", "mean_squared_error", "mean_absolute_error", "xauc"]


def test_xauc_by_hand():
    # Pairs of different labels: (1, 2) equal, (1, 4) right, (2, 4) right, (1, 4') wrong, (2, 4') wrong.
    metric = xauc.Metric(xauc.Config())
    assert metric.measure(_scored([3.0, 3.0, 5.0, 0.0], [1.0, 2.0, 4.0, 4.0])) == pytest.approx((0.5 + 2) / 5)
    assert metric.measure(_scored([1.0, 2.0], [3.0, 3.0])) is None
    assert metric.direction == "up"


def _slow(scored):
    won = total = 0.0
    for i, j in itertools.permutations(range(len(scored.labels)), 2):
        if scored.labels[i] < scored.labels[j]:
            weight = scored.weights[i] * scored.weights[j]
            total += weight
            right = scored.logits[i] < scored.logits[j]
            won += weight * (1.0 if right else 0.5 if scored.logits[i] == scored.logits[j] else 0.0)
    return won / total if total else None


_ROWS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=14)


@settings(max_examples=150, deadline=None)
@given(_ROWS)
def test_xauc_is_that_of_all_pairs(rows):
    scored = _scored(*zip(*rows, strict=True))
    metric, expected = xauc.Metric(xauc.Config()), _slow(scored)
    found = metric.measure(scored)
    assert (found is None) == (expected is None)
    if expected is not None:
        assert found == pytest.approx(expected)
    # A resample is the rows as often as their units are drawn.
    units = np.arange(len(rows)) % 3
    counts = np.array([[1.0, 2.0], [1.0, 0.0], [1.0, 1.0]])
    resampled = metric.resampled(scored, units, 3)(counts)
    for column, drawn in zip(resampled, counts.T, strict=True):
        expected = _slow(scored._replace(weights=scored.weights * drawn[units]))
        assert np.isnan(column) if expected is None else column == pytest.approx(expected)


def test_parts_of_values_are_joined_and_taken():
    parts = [_scored([1.0], [2.0]), _scored([3.0, 4.0], [5.0, 6.0])]
    whole = Scored.joined(parts)
    assert whole.values
    assert whole.labels.tolist() == [2, 5, 6]
    few = whole.taken(np.array([True, False, True]))
    assert few.values
    assert few.predicted.tolist() == [1, 4]


def test_values_have_a_picture_of_calibration_and_none_of_thresholds(tmp_path):
    scored = _scored([1.0, 2.0, 3.0, 4.0], [0.0, 2.0, 3.0, 7.0])
    predicted, observed, rows = calibration_bins(scored, 2)
    assert (predicted.tolist(), observed.tolist(), rows.tolist()) == ([1.5, 3.5], [1, 5], [2, 2])
    write_pictures(scored, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["calibration.parquet"]
