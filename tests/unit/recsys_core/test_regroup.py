"""Columns in another order, against TorchRec's own and by hand."""

import pytest
import torch
from torchrec import KeyedTensor

from recsys_core.ops.regroup import regroup

WIDTHS = {"a": 4, "b": 2, "c": 6, "d": 2}


def test_columns_change_places_by_hand() -> None:
    values = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], requires_grad=True)
    left, right = regroup(values, ["a", "b"], [2, 1], [["b"], ["a"]])
    assert left.tolist() == [[3.0], [6.0]]
    assert right.tolist() == [[1.0, 2.0], [4.0, 5.0]]
    # A group that no loss reads has no gradient.
    (left * torch.tensor([[10.0], [20.0]])).sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [[0.0, 0.0, 10.0], [0.0, 0.0, 20.0]]


@pytest.mark.parametrize("groups", [["dcab"], ["ca", "bd"], ["b", "d", "ac"]])
@pytest.mark.parametrize("num_rows", [0, 5])
def test_groups_and_their_gradients_equal_torchrecs(groups: list[str], num_rows: int) -> None:
    values = torch.randn(num_rows, sum(WIDTHS.values()), requires_grad=True)
    orders = [list(group) for group in groups]
    theirs = KeyedTensor.regroup([KeyedTensor([*WIDTHS], [*WIDTHS.values()], values)], orders)
    ours = regroup(values, [*WIDTHS], [*WIDTHS.values()], orders)
    weights = [torch.randn_like(one) for one in theirs]
    gradients = [
        torch.autograd.grad(sum((one * by).sum() for one, by in zip(made, weights, strict=True)), values)[0]
        for made in (theirs, ours)
    ]
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))
    assert torch.equal(*gradients)
