"""The full cross-entropy, worked on paper."""

import math

import pytest
import torch

from recsys_core.losses.full_cross_entropy import Config
from recsys_core.losses.full_cross_entropy.loss import Loss

TABLE = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 1.0]])
QUERY = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
# The positives are items 0 and 2; then come all items.
ITEM = torch.cat([TABLE[[0, 2]], TABLE])
ROWS = torch.tensor([0, 2, 0, 1, 2])
UNIFORM = torch.zeros(5)


def test_the_positive_is_among_all_items_once():
    # Scores of query 0 are 1, 0 and 3, those of query 1 are 0, 2 and 1.
    loss = Loss(Config())(QUERY, ITEM, ROWS, UNIFORM)
    expected = [
        -math.log(math.exp(1) / (math.exp(1) + 1 + math.exp(3))),
        -math.log(math.exp(1) / (1 + math.exp(2) + math.exp(1))),
    ]
    assert loss.tolist() == pytest.approx(expected, abs=1e-6)


def test_temperature_divides_the_scores():
    loss = Loss(Config(temperature=0.5))(QUERY, ITEM, ROWS, UNIFORM)
    assert loss[0].item() == pytest.approx(math.log(1 + math.exp(-2) + math.exp(4)), abs=1e-6)


def test_the_total_in_blocks_has_the_gradient_of_a_plain_cross_entropy():
    torch.manual_seed(0)
    table, targets = torch.randn(50, 4), torch.randint(50, (30,))
    found = []
    for plain in (True, False):
        query, items = torch.randn(30, 4, generator=torch.Generator().manual_seed(1)), table.clone()
        query.requires_grad_(), items.requires_grad_()
        if plain:
            total = torch.nn.functional.cross_entropy(query @ items.T / 0.5, targets, reduction="sum")
        else:
            rows = torch.cat([targets, torch.arange(50)])
            total = Loss(Config(temperature=0.5)).total(query, items[rows], rows, torch.zeros(80))
        total.backward()
        found.append((total.detach(), query.grad, items.grad))
    for left, right in zip(*found, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-4)
