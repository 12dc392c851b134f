"""The paired bootstrap: by hand, against a slow one that copies rows, and how often its interval holds the truth."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_core.artifacts import Difference
from recsys_core.metrics import bootstrap
from recsys_core.metrics.bootstrap import Auc, differences, draws, quotient
from recsys_core.metrics.ranking.auc import auc


def test_a_resample_draws_as_many_units_as_there_are_and_each_call_the_same_ones():
    (counts,) = draws(5, num_resamples=40)
    assert counts.shape == (5, 40)
    assert (counts.sum(axis=0) == 5).all()
    assert (counts >= 0).all()
    assert counts.mean() == 1
    assert len(np.unique(counts, axis=1).T) > 20
    assert (next(draws(5, num_resamples=40)) == counts).all()


def test_resamples_do_not_depend_on_how_many_are_made_at_once(monkeypatch: pytest.MonkeyPatch):
    (whole,) = draws(7, num_resamples=10)
    monkeypatch.setattr(bootstrap, "_CELLS", 7 * 4)
    chunks = list(draws(7, num_resamples=10))
    assert [chunk.shape[1] for chunk in chunks] == [4, 4, 2]
    assert (np.concatenate(chunks, axis=1) == whole).all()


def test_a_quotient_of_sums_by_hand():
    metric = quotient(np.array([1, 0, 2]), np.array([2, 1, 2]))
    # Each unit once: 3 of 5. The first twice and the last once: 4 of 6. The second three times: 0 of 3.
    counts = np.array([[1, 2, 0], [1, 0, 3], [1, 1, 0]], float)
    assert metric(counts) == pytest.approx([3 / 5, 4 / 6, 0])
    assert np.isnan(quotient(np.array([1, 0]), np.array([1, 0]))(np.array([[0.0], [2.0]]))).all()


def test_the_auc_of_resamples_by_hand():
    # Rows: positive .9, positive .4, negative .4, negative .1; one unit each.
    metric = Auc(np.array([0.9, 0.4, 0.4, 0.1]), np.array([True, True, False, False]), np.ones(4), np.arange(4), 4)
    counts = np.array([[1, 1, 1, 1], [0, 2, 2, 0], [2, 1, 1, 0], [1, 1, 0, 2], [0, 0, 2, 2]], float).T
    # All pairs but the equal one, which is half: 3.5 of 4. Only the equal ones: half. The upper positive twice against
    # the equal negative: 2.5 of 3. Both positives above the last row: 4 of 4. No positive: undefined.
    assert metric(counts) == pytest.approx([3.5 / 4, 0.5, 2.5 / 3, 1, np.nan], nan_ok=True)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.booleans(), st.integers(0, 3), st.sampled_from([0.0, 0.5, 2.0])),
        min_size=1,
        max_size=30,
    ),
    st.integers(1, 50),
)
def test_the_auc_of_resamples_is_that_of_copied_rows(rows, cells):
    scores, labels, units, weights = (np.array(column) for column in zip(*rows, strict=True))
    (counts,) = draws(4, num_resamples=6)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(bootstrap, "_CELLS", cells)  # the blocks of a running sum, of one row or more
        found = Auc(scores.astype(float), labels, weights, units, 4)(counts)
    for resample, value in zip(counts.T, found, strict=True):
        copied = np.repeat(np.arange(len(scores)), resample[units].astype(int))
        slow = auc(scores[copied].astype(float), labels[copied], weights[copied])
        assert value == pytest.approx(np.nan if slow is None else slow, nan_ok=True)


def test_the_interval_is_that_of_the_slow_bootstrap():
    rng = np.random.default_rng(3)
    hits, champion_hits, relevant = rng.integers(0, 3, 60), rng.integers(0, 3, 60), rng.integers(3, 6, 60)
    pairs = {"hit_rate": (quotient(hits, relevant), quotient(champion_hits, relevant))}
    found = differences(pairs, 60, confidence=0.9)["hit_rate"]
    slow, again = [], np.random.default_rng(0)
    for _ in range(1_000):
        users = again.integers(60, size=60)
        slow.append((hits[users].sum() - champion_hits[users].sum()) / relevant[users].sum())
    assert found.value == pytest.approx((hits.sum() - champion_hits.sum()) / relevant.sum())
    assert (found.low, found.high) == pytest.approx(np.quantile(slow, [0.05, 0.95]))


def test_pairing_takes_out_what_both_models_share():
    # A champion that is right about the very same users: their luck is no difference.
    hits = np.random.default_rng(0).integers(0, 2, 400)
    same = quotient(hits, np.ones(400))
    assert differences({"m": (same, same)}, 400, 0.95) == {"m": Difference(value=0, low=0, high=0)}
    alone = differences({"m": (same, quotient(np.zeros(400), np.ones(400)))}, 400, 0.95)["m"]
    assert alone.low is not None
    assert alone.high is not None
    assert 0.07 < alone.high - alone.low < 0.13  # twice 1.96 standard errors of a share of a half


def test_few_units_tell_nothing():
    one, none = quotient(np.ones(19), np.ones(19)), quotient(np.zeros(19), np.ones(19))
    assert differences({"m": (one, none)}, 19, 0.95) == {"m": Difference(value=1, low=None, high=None)}
    assert differences({}, 100, 0.95) == {}


def test_a_metric_that_is_undefined_has_no_difference():
    one, undefined = quotient(np.ones(30), np.ones(30)), quotient(np.zeros(30), np.zeros(30))
    assert differences({"m": (one, undefined), "n": (undefined, one)}, 30, 0.95) == {}


def test_resamples_that_define_nothing_do_not_count():
    # Of 30 rows one is positive: a resample without it has no AUC, and every other has the same.
    labels = np.arange(30) == 0
    best, worst = (Auc(sign * labels, labels, np.ones(30), np.arange(30), 30) for sign in (1.0, -1.0))
    assert np.isnan(best(next(draws(30)))).mean() == pytest.approx(np.exp(-1), abs=0.05)
    assert differences({"auc": (best, worst)}, 30, 0.95) == {"auc": Difference(value=1, low=1, high=1)}


def test_the_interval_holds_the_true_difference_about_as_often_as_it_claims():
    held, rng = 0, np.random.default_rng(5)
    for _ in range(200):
        ability = rng.random(80)
        one, other = (rng.random((2, 80)) < ability + np.array([[0.05], [0.0]])).astype(float)
        pairs = {"m": (quotient(one, np.ones(80)), quotient(other, np.ones(80)))}
        found = differences(pairs, 80, 0.95)["m"]
        truth = float((np.clip(ability + 0.05, 0, 1) - ability).mean())
        held += (found.low or 0) <= truth <= (found.high or 0)
    assert 180 <= held <= 199
