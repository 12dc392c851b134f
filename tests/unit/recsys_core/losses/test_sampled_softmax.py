"""The sampled softmax, worked on paper."""

import math

import pytest
import torch

from recsys_core.losses import sampled_softmax
from recsys_core.losses.sampled_softmax import Config
from recsys_core.losses.sampled_softmax.loss import Loss

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


@pytest.mark.parametrize("in_batch", [False, True])
@pytest.mark.parametrize("logq", [False, True])
def test_the_total_in_blocks_and_its_gradients_are_those_of_the_losses(in_batch, logq, monkeypatch):
    # Blocks of two queries; items that repeat, so that there are accidental hits.
    monkeypatch.setattr(sampled_softmax.loss, "_BLOCK_NUMBERS", 2 * (12 if in_batch else 7))
    torch.manual_seed(0)
    item_rows = torch.tensor([1, 2, 3, 1, 2, 0, 1, 5, 6, 7, 8, 9])
    config = sampled_softmax.Config(in_batch_negatives=in_batch, logq_correction=logq)
    loss = Loss(config)
    log_expected, found = torch.randn(12), []
    query, items = torch.randn(5, 4), torch.randn(12, 4)
    for way in (loss.total, lambda *tensors: loss(*tensors).sum()):
        copies = query.clone().requires_grad_(), items.clone().requires_grad_()
        total = way(*copies, item_rows, log_expected)
        (3 * total).backward()
        found.append((total.detach(), copies[0].grad, copies[1].grad))
    for left, right in zip(*found, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("in_batch", [False, True])
def test_the_gradients_of_the_total_are_those_of_small_differences(in_batch, monkeypatch):
    monkeypatch.setattr(sampled_softmax.loss, "_BLOCK_NUMBERS", 16)
    torch.manual_seed(0)
    loss = Loss(Config(in_batch_negatives=in_batch, temperature=0.5))
    rows, log_expected = torch.tensor([1, 2, 1, 3, 1, 4, 5]), torch.randn(7, dtype=torch.float64)
    query, items = (torch.randn(n, 2, dtype=torch.float64, requires_grad=True) for n in (4, 7))
    assert torch.autograd.gradcheck(lambda q, i: loss.total(q, i, rows, log_expected), (query, items))


@pytest.mark.parametrize("in_batch", [False, True])
def test_under_autocast_the_total_is_that_of_float32_but_for_rounding(in_batch):
    torch.manual_seed(0)
    loss = Loss(Config(in_batch_negatives=in_batch))
    rows, log_expected = torch.randint(0, 40, (96,)), torch.randn(96) - 5
    query, items = (torch.nn.functional.normalize(torch.randn(n, 32), dim=1) for n in (64, 96))
    found = []
    for enabled in (False, True):
        copies = query.clone().requires_grad_(), items.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            total = loss.total(*copies, rows, log_expected)
        total.backward()
        assert total.dtype == torch.float32
        found.append((total.detach(), copies[0].grad, copies[1].grad))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=2e-3, atol=0)
    for exact, rounded in zip(found[0][1:], found[1][1:], strict=True):
        assert (exact - rounded).norm() < 0.01 * exact.norm()


def test_a_batch_of_one_item_alone_has_no_negatives():
    query, items = torch.randn(6, 4), torch.randn(6, 4)
    loss = Loss(Config(in_batch_negatives=True))
    assert float(loss.total(query, items, torch.full((6,), 7), torch.zeros(6))) == pytest.approx(0.0, abs=1e-5)


def test_the_total_of_no_queries_is_zero():
    loss = Loss(sampled_softmax.Config())
    query, items = torch.randn(0, 4, requires_grad=True), torch.randn(3, 4, requires_grad=True)
    total = loss.total(query, items, torch.arange(3), torch.zeros(3))
    total.backward()
    assert float(total.detach()) == 0.0
    assert float(items.grad.abs().sum()) == 0.0


@pytest.mark.parametrize("logit", [60.0, 90.0, 5_000.0])
def test_a_loss_whose_share_is_too_small_for_a_logarithm_is_as_large_as_it_is(logit):
    # Both queries: positive 0 and one negative, whose logit is the loss; then the other query's are 0 and 1.
    query = torch.tensor([[1.0, 0.0], [0.0, 1.0]], requires_grad=True)
    item = torch.tensor([[0.0, 0.0], [0.0, 0.0], [logit, 1.0]])
    total = Loss(Config(temperature=1.0)).total(query, item, torch.tensor([7, 8, 9]), torch.zeros(3))
    assert total.item() == pytest.approx(logit + math.log(1 + math.e), rel=1e-6)
    total.backward()
    assert query.grad[0].tolist() == pytest.approx([logit, 1.0])
