"""Binary cross-entropy, by hand."""

import math

import pytest
import torch

from recsys_core.losses.binary_cross_entropy import Loss, weighted_mean


def test_by_hand():
    logits = torch.tensor([0.0, math.log(3), math.log(3), 1e4])
    losses = Loss()(logits, torch.tensor([1.0, 1.0, 0.0, 1.0]))
    assert losses.tolist() == pytest.approx([math.log(2), -math.log(0.75), -math.log(0.25), 0.0])


def test_the_weighted_mean_counts_an_example_of_weight_two_twice():
    losses, weights = torch.tensor([1.0, 4.0]), torch.tensor([2.0, 1.0])
    assert float(weighted_mean(losses, weights)) == pytest.approx((2 * 1 + 4) / 3)
    assert float(weighted_mean(losses, torch.zeros(2))) == 0.0
