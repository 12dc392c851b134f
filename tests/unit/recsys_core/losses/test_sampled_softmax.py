"""The sampled softmax, worked on paper."""

import math

import pytest
import torch

from recsys_core.losses.sampled_softmax import Config, Loss

QUERY = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
# Two positives, then two negatives; item 7 is the positive of query 0 and was also drawn as a negative.
ITEM = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 0.0], [3.0, 1.0]])
ROWS = torch.tensor([7, 8, 7, 9])
UNIFORM = torch.zeros(4)


def test_positive_against_sampled_negatives():
    # Query 0: positive 1; negatives: 1 is an accidental hit and masked, 3 counts. -log(e^1 / (e^1 + e^3))
    # Query 1: positive 2; negatives 0 and 1.                                     -log(e^2 / (e^2 + e^0 + e^1))
    loss = Loss(Config(temperature=1.0))(QUERY, ITEM, ROWS, UNIFORM)
    expected = [math.log(1 + math.exp(2)), math.log(1 + math.exp(-2) + math.exp(-1))]
    assert loss.tolist() == pytest.approx(expected, abs=1e-6)


def test_temperature_divides_the_similarity():
    loss = Loss(Config(temperature=0.5))(QUERY, ITEM, ROWS, UNIFORM)
    assert loss[0].item() == pytest.approx(math.log(1 + math.exp(4)), abs=1e-6)


def test_logq_correction_subtracts_the_log_of_the_expected_count():
    # Items 7, 8, 9 are expected 1, 2 and 4 times. Query 1: 2 - log 2 against 0 - log 1 and 1 - log 4.
    log_expected = torch.log(torch.tensor([1.0, 2.0, 1.0, 4.0]))
    loss = Loss(Config(temperature=1.0, logq_correction=True))(QUERY, ITEM, ROWS, log_expected)
    positive, negatives = math.exp(2) / 2, [1.0, math.exp(1) / 4]
    assert loss[1].item() == pytest.approx(-math.log(positive / (positive + sum(negatives))), abs=1e-6)


def test_in_batch_negatives_are_the_other_rows_positives():
    # Query 0 against: own positive 1, query 1's positive 0, masked hit, 3.  Query 1: 0, own 2, 0, 1.
    loss = Loss(Config(temperature=1.0, in_batch_negatives=True))(QUERY, ITEM, ROWS, UNIFORM)
    expected = [
        math.log(1 + math.exp(-1) + math.exp(2)),
        math.log(1 + 2 * math.exp(-2) + math.exp(-1)),
    ]
    assert loss.tolist() == pytest.approx(expected, abs=1e-6)


def test_in_batch_rows_with_the_same_item_do_not_compete():
    query, item, rows = QUERY, torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([7, 7])
    loss = Loss(Config(temperature=1.0, in_batch_negatives=True))(query, item, rows, torch.zeros(2))
    assert loss.tolist() == pytest.approx([0.0, 0.0], abs=1e-6)


def test_a_query_whose_negatives_are_all_hits_has_no_loss_and_a_finite_gradient():
    query = torch.tensor([[1.0, 0.0]], requires_grad=True)
    loss = Loss(Config(temperature=1.0))(query, ITEM[[0, 2]], ROWS[[0, 2]], torch.zeros(2))
    loss.sum().backward()
    assert loss.item() == 0.0
    assert torch.isfinite(query.grad).all()
