"""The numbers that tables start with; that ranks start alike is shown in tests/distributed."""

import math

import pytest
import torch
from pydantic import ValidationError

from recsys_core.features import Initializer
from recsys_core.sharding.draws import _draw

ROWS, DIM = 70_000, 8


def drawn(**keys) -> torch.Tensor:
    initializer = Initializer.model_validate(keys) if keys else None
    piece = torch.empty(ROWS, DIM)
    _draw(piece, [0, 0], piece.size(), (0, 1), initializer)
    # Any piece of the table has the numbers that the whole one has there, over the border of two draws as well.
    part = torch.empty(5_000, 4)
    _draw(part, [62_000, 4], piece.size(), (0, 1), initializer)
    assert torch.equal(part, piece[62_000:67_000, 4:])
    return piece


@pytest.mark.parametrize(
    ("keys", "mean", "std", "furthest"),
    [
        ({}, 0, ROWS**-0.5 / 3**0.5, ROWS**-0.5),
        ({"kind": "uniform", "low": -1, "high": 3}, 1, 4 / 12**0.5, 2),
        ({"kind": "normal", "mean": 2, "std": 0.5}, 2, 0.5, math.inf),
        # A normal distribution that is cut at two standard deviations has .88 of one left.
        ({"kind": "truncated_normal", "mean": 2, "std": 0.5}, 2, 0.44, 1),
        ({"kind": "xavier_uniform"}, 0, (2 / (ROWS + DIM)) ** 0.5, (6 / (ROWS + DIM)) ** 0.5),
        ({"kind": "xavier_normal"}, 0, (2 / (ROWS + DIM)) ** 0.5, math.inf),
        ({"kind": "kaiming_uniform"}, 0, 0.5, 3**0.5 / 2),
        ({"kind": "kaiming_normal"}, 0, 0.5, math.inf),
    ],
)
def test_initializers_have_their_moments(keys, mean, std, furthest) -> None:
    numbers = drawn(**keys)
    assert float(numbers.mean()) == pytest.approx(mean, abs=0.01 * std)
    assert float(numbers.std()) == pytest.approx(std, rel=0.01)
    assert float((numbers - mean).abs().max()) <= furthest * (1 + 1e-6)


def test_a_constant_is_everywhere() -> None:
    assert drawn(kind="constant", value=0.25).unique().tolist() == [0.25]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"kind": "normal", "mean": 0}, "normal takes mean, std; found mean"),
        ({"kind": "constant", "value": 1, "std": 1}, "constant takes value; found std, value"),
        ({"kind": "xavier_normal", "std": 1}, "xavier_normal takes no other key; found std"),
        ({"kind": "uniform", "low": 1, "high": 1}, r"low 1.0 is not below high 1.0"),
    ],
)
def test_an_initializer_s_keys_go_with_its_kind(keys, message) -> None:
    with pytest.raises(ValidationError, match=message):
        Initializer.model_validate(keys)
