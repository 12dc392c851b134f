"""A row's probability has the same bits wherever the row stands."""

import math

import numpy as np
import pytest
import torch

from recsys_core.exported.probabilities import probabilities


def test_by_hand() -> None:
    found = probabilities(torch.tensor([[0.0, math.log(3.0)], [-1e4, 1e4]], dtype=torch.float32))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.array([[0.5, 0.75], [0, 1]], np.float32))
    assert probabilities(torch.empty(0, 2)).shape == (0, 2)


@pytest.mark.parametrize("size", [1, 7, 16, 33])
def test_a_place_in_the_batch_changes_no_bit(size: int) -> None:
    logits = torch.linspace(-20, 20, 33 * 7 * 16)
    whole = probabilities(logits)
    parts = np.concatenate([probabilities(part) for part in logits.split(size)])
    np.testing.assert_array_equal(parts.view(np.int32), whole.view(np.int32))
    np.testing.assert_allclose(whole, logits.sigmoid().numpy(), rtol=1e-6)
