"""Losses of a positive and drawn negatives, worked on paper."""

import math

import pytest
import torch

from recsys_core.losses import ccl, gbce
from recsys_core.losses.ccl.loss import Loss as Ccl
from recsys_core.losses.gbce.loss import Loss as Gbce

QUERY = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
# Two positives, then two negatives; item 7 is the positive of query 0 and was also drawn as a negative.
ITEM = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 0.0], [3.0, 1.0]])
ROWS = torch.tensor([7, 8, 7, 9])
UNIFORM = torch.zeros(4)


def _gbce(num_items, **options):
    loss = Gbce(gbce.Config(**options))
    loss.num_items = num_items
    return loss


def _share(score):
    return 1 / (1 + math.exp(-score))


def test_without_calibration_it_is_binary_cross_entropy():
    # Query 0: positive 1, negatives a hit and 3. Query 1: positive 2, negatives 0 and 1. The mean is over three.
    loss = _gbce(100, calibration=0)(QUERY, ITEM, ROWS, UNIFORM)
    expected = [
        -(math.log(_share(1)) + math.log(1 - _share(3))) / 3,
        -(math.log(_share(2)) + math.log(0.5) + math.log(1 - _share(1))) / 3,
    ]
    assert loss.tolist() == pytest.approx(expected, abs=1e-6)


def test_the_positive_is_taken_to_a_power_by_how_many_of_the_items_are_drawn():
    # Two of ten other items are drawn, a fifth: with t = 1/2 the power is 1 - (1 - 1/5) / 2 = .6.
    loss = _gbce(11, calibration=0.5)(QUERY, ITEM, ROWS, UNIFORM)
    expected = -(math.log(_share(2) ** 0.6) + math.log(0.5) + math.log(1 - _share(1))) / 3
    assert loss[1].item() == pytest.approx(expected, abs=1e-6)


def test_where_more_are_drawn_than_there_are_it_is_binary_cross_entropy_again():
    whole, plain = _gbce(2, calibration=1), _gbce(2, calibration=0)
    assert whole(QUERY, ITEM, ROWS, UNIFORM).tolist() == plain(QUERY, ITEM, ROWS, UNIFORM).tolist()


def test_temperature_divides_the_similarity():
    loss = _gbce(100, calibration=0, temperature=0.5)(QUERY, ITEM, ROWS, UNIFORM)
    assert loss[0].item() == pytest.approx(-(math.log(_share(2)) + math.log(1 - _share(6))) / 3, abs=1e-6)


def test_negatives_above_the_margin_are_pushed_down():
    item = torch.tensor([[0.6, 0.8], [0.0, 1.0], [1.0, 0.0], [0.8, 0.6]])
    # Query 0: positive .6, negatives 1 and .8: (1 - .5 + .8 - .5) / 2 = .4. Query 1: positive 1, 0 and .6: .1 / 2.
    loss = Ccl(ccl.Config(margin=0.5, negative_weight=3))(QUERY, item, torch.tensor([5, 6, 7, 8]), UNIFORM)
    assert loss.tolist() == pytest.approx([0.4 + 3 * 0.4, 3 * 0.05], abs=1e-6)


def test_a_hit_is_no_negative():
    item = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.8, 0.6]])
    loss = Ccl(ccl.Config(margin=0.5, negative_weight=1))(QUERY, item, ROWS, UNIFORM)
    assert loss[0].item() == pytest.approx((0.8 - 0.5) / 2, abs=1e-6)


@pytest.mark.parametrize("loss", [_gbce(100), Ccl(ccl.Config())])
def test_gradients_are_finite_where_all_negatives_are_hits(loss):
    query = QUERY[:1].clone().requires_grad_()
    loss.total(query, ITEM[[0, 2]], ROWS[[0, 2]], UNIFORM[:2]).backward()
    assert torch.isfinite(query.grad).all()
