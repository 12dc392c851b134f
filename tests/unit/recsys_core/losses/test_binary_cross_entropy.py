"""Binary cross-entropy, by hand."""

import math

import pytest
import torch

from recsys_core.losses.binary_cross_entropy import Config
from recsys_core.losses.binary_cross_entropy.loss import Loss


def test_by_hand():
    logits = torch.tensor([0.0, math.log(3), math.log(3), 1e4])
    losses = Loss(Config())(logits, torch.tensor([1.0, 1.0, 0.0, 1.0]))
    assert losses.tolist() == pytest.approx([math.log(2), -math.log(0.75), -math.log(0.25), 0.0])
