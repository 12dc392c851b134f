"""Losses of values and amounts, by hand."""

import math

import numpy as np
import pytest
import torch

from recsys_core import lookup, losses
from recsys_core.losses.base import RankingLoss


def _loss(kind, **config):
    section = lookup.component("recsys_core.losses", kind).Config.model_validate({"kind": kind, **config})
    return losses.build(section, RankingLoss)


def _of(kind, outputs, labels, **config):
    return _loss(kind, **config)(torch.tensor(outputs), torch.tensor(labels)).tolist()


def test_squares_and_distances():
    assert _of("mean_squared_error", [1.0, -2.0], [3.0, -2.5]) == [4, 0.25]
    assert _of("mean_absolute_error", [1.0, -2.0], [3.0, -2.5]) == [2, 0.5]


def test_huber_is_square_near_and_straight_far():
    # Up to 2: d²/2; beyond: 2 (d - 1).
    assert _of("huber", [1.0, 2.0, 5.0], [0.0, 0.0, 0.0], delta=2.0) == [0.5, 2, 8]


def test_tweedie_by_hand_and_its_best_constant_is_the_mean():
    # Of power 1.5: 2 y / √m + 2 √m, of amounts m = 4 and 1.
    found = _of("tweedie", [math.log(4), 0.0], [3.0, 0.0], power=1.5)
    assert found == pytest.approx([3 + 4, 2])
    labels = torch.tensor([0.0, 0.0, 1.0, 7.0])
    output = torch.tensor(math.log(2.0), requires_grad=True)
    _loss("tweedie", power=1.3)(output.expand(4), labels).sum().backward()
    assert output.grad.item() == pytest.approx(0, abs=1e-5)


def test_the_losses_say_what_is_learned_by_them():
    assert [_loss(kind).learns for kind in ("huber", "tweedie", "focal")] == ["value", "amount", "probability"]
    parts = [{"loss": {"kind": "huber"}}, {"loss": {"kind": "mean_squared_error"}, "weight": 0.5}]
    assert _loss("weighted", parts=parts).learns == "value"
    assert _of("weighted", [1.0], [3.0], parts=parts) == [1.5 + 2]


def test_losses_of_different_labels_are_not_added_up():
    parts = [{"loss": {"kind": "huber"}}, {"loss": {"kind": "tweedie"}}]
    with pytest.raises(ValueError, match="loss.parts: they learn different things of one output, .*'huber': 'value'"):
        _loss("weighted", parts=parts)


@pytest.mark.parametrize(("kind", "config"), [("tweedie", {"power": 2}), ("huber", {"delta": 0})])
def test_options_out_of_range_are_refused(kind, config):
    with pytest.raises(ValueError, match=next(iter(config))):
        _loss(kind, **config)


def test_gradients_are_finite_far_off():
    for kind in ("huber", "mean_absolute_error", "mean_squared_error", "tweedie"):
        output = torch.tensor([-40.0, 0.0, 40.0], requires_grad=True)
        _loss(kind)(output, torch.tensor([0.0, 5.0, 1.0])).sum().backward()
        assert np.isfinite(output.grad.numpy()).all(), kind
