"""Losses of single rows and of rows in groups, worked on paper."""

import math

import pytest
import torch
from pydantic import ValidationError

from recsys_core import lookup, losses
from recsys_core.losses._groups import log_softmax, pairs
from recsys_core.losses.base import RankingLoss

LABELS = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.0, 1.0])
GROUPS = torch.tensor([7, 7, 7, -3, -3, 9])
# Probabilities 3/4, 1/4 and 1/2 among them.
LOGITS = torch.tensor([math.log(3), 0.0, -math.log(3), 0.0, math.log(3), 2.0])


def _loss(kind, **config):
    section = lookup.component("recsys_core.losses", kind).Config.model_validate({"kind": kind} | config)
    assert type(section).model_validate_json(section.model_dump_json()) == section
    return losses.build(section, RankingLoss)


def _of_groups(kind, **config):
    loss = _loss(kind, **config)
    assert loss.reads_groups
    return loss.of_groups(LOGITS, LABELS, GROUPS).tolist()


def test_a_smoothed_label_is_learned_as_less_than_certain():
    loss = _loss("binary_cross_entropy", label_smoothing=0.2)
    logits = torch.tensor([math.log(3), math.log(9)], requires_grad=True)
    found = loss(logits, torch.tensor([0.0, 1.0]))
    # The labels are .1 and .9, the probabilities 3/4 and 9/10.
    expected = [-0.1 * math.log(0.75) - 0.9 * math.log(0.25), -0.9 * math.log(0.9) - 0.1 * math.log(0.1)]
    assert found.tolist() == pytest.approx(expected)
    found.sum().backward()
    # It is least where the probability is the smoothed label.
    assert logits.grad.tolist() == pytest.approx([0.75 - 0.1, 0.0], abs=1e-6)


def test_focal():
    logits, labels = torch.tensor([math.log(3), math.log(3), 60.0]), torch.tensor([1.0, 0.0, 0.0])
    # p of the own label: 3/4, 1/4, and none to speak of.
    expected = [0.25**2 * -math.log(0.75), 0.75**2 * -math.log(0.25), 60.0]
    assert _loss("focal")(logits, labels).tolist() == pytest.approx(expected)
    halves = _loss("focal", alpha=0.25)(logits, labels).tolist()
    assert halves == pytest.approx([one * weight for one, weight in zip(expected, (0.25, 0.75, 0.75), strict=True)])
    plain = _loss("focal", gamma=0.0)(logits, labels)
    torch.testing.assert_close(plain, _loss("binary_cross_entropy")(logits, labels))


def test_pairs_are_those_of_a_group():
    assert list(zip(*(one.tolist() for one in pairs(LABELS, GROUPS)), strict=True)) == [(0, 1), (0, 2), (3, 4)]
    torch.manual_seed(0)
    labels, groups = torch.randint(0, 2, (50,)).float(), torch.randint(-4, 4, (50,))
    slow = {(i, j) for i in range(50) for j in range(50) if labels[i] > labels[j] and groups[i] == groups[j]}
    found = [*zip(*(one.tolist() for one in pairs(labels, groups)), strict=True)]
    assert len(found) == len(slow)
    assert set(found) == slow


def test_bpr():
    # 0 against 1 and 2: log 3 and 2 log 3 above; 3 against 4: log 3 below; 5 is alone.
    first = (-math.log(3 / 4) - math.log(9 / 10)) / 2
    assert _of_groups("bpr") == pytest.approx([first, 0, 0, -math.log(1 / 4), 0, 0])


def test_hinge():
    # 0 is log 3 > 1 above 1, and more above 2; 3 is log 3 below 4.
    assert _of_groups("hinge") == pytest.approx([0, 0, 0, 1 + math.log(3), 0, 0])
    assert _of_groups("hinge", margin=2.0) == pytest.approx([(2 - math.log(3)) / 2, 0, 0, 2 + math.log(3), 0, 0])


def test_listwise():
    # Exponentials 3, 1 and 1/3; 1 and 3; one alone has all of its softmax.
    assert _of_groups("listwise") == pytest.approx([math.log(13 / 9), 0, 0, math.log(4), 0, 0], abs=1e-6)


def test_jrc():
    root = math.sqrt(3)
    # Of s/2 the exponentials are √3, 1, 1/√3 | 1, √3 | e, and of -s/2 their inverses.
    first, second = root + 1 + 1 / root, 1 + root
    own = [root / first, 1 / first, root / first, 1 / second, (1 / root) / (1 + 1 / root), 1]
    pointwise = [0.75, 0.5, 0.75, 0.5, 0.25, 1 / (1 + math.exp(-2))]
    expected = [-0.25 * math.log(p) - 0.75 * math.log(share) for p, share in zip(pointwise, own, strict=True)]
    assert _of_groups("jrc", alpha=0.25) == pytest.approx(expected, abs=1e-6)
    assert _of_groups("jrc", alpha=1.0) == pytest.approx([-math.log(p) for p in pointwise])


def test_a_weighted_sum_of_losses():
    parts = [{"weight": 2.0, "loss": {"kind": "binary_cross_entropy"}}, {"weight": 0.5, "loss": {"kind": "bpr"}}]
    plain, ordered = _loss("binary_cross_entropy"), _loss("bpr")
    expected = 2 * plain(LOGITS, LABELS) + 0.5 * ordered.of_groups(LOGITS, LABELS, GROUPS)
    assert _of_groups("weighted", parts=parts) == pytest.approx(expected.tolist())
    alone = _loss("weighted", parts=parts[:1])
    assert not alone.reads_groups
    torch.testing.assert_close(alone(LOGITS, LABELS), 2 * plain(LOGITS, LABELS))


def test_a_weighted_sum_is_of_losses_of_rows():
    with pytest.raises(ValidationError, match="one is of kind weighted itself; name its parts here"):
        _loss("weighted", parts=[{"loss": {"kind": "weighted", "parts": [{"loss": {"kind": "bpr"}}]}}])
    with pytest.raises(ValueError, match="'sampled_softmax': not a loss that judges the logits of labelled rows"):
        _loss("weighted", parts=[{"loss": {"kind": "sampled_softmax"}}])
    with pytest.raises(ValidationError, match="unknown kind 'bprr'.* did you mean 'bpr'"):
        _loss("weighted", parts=[{"loss": {"kind": "bprr"}}])


@pytest.mark.parametrize("kind", ["bpr", "hinge", "listwise", "jrc"])
def test_gradients_stay_finite_and_a_loss_without_groups_is_of_one(kind):
    logits = torch.tensor([1e4, -1e4, 0.0, 1e4], requires_grad=True)
    labels = torch.tensor([0.0, 1.0, 1.0, 1.0])
    loss = _loss(kind)
    found = loss(logits, labels)
    torch.testing.assert_close(found, loss.of_groups(logits, labels, torch.full((4,), 5)))
    found.sum().backward()
    assert torch.isfinite(logits.grad).all()
    assert logits.grad.abs().sum() > 0
    assert loss(logits[:0], labels[:0]).tolist() == []


def test_a_group_s_softmax_is_not_that_of_another():
    shares = log_softmax(torch.tensor([1e4, 1e4, -1e4, 0.0]), torch.tensor([1, 1, 2, 2])).exp()
    assert shares.tolist() == pytest.approx([0.5, 0.5, 0.0, 1.0])
