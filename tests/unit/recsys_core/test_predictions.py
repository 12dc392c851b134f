"""A row's probability has the same bits wherever the row stands."""

import math

import numpy as np
import pytest
import torch

from recsys_core.exported.predictions import predictions


def test_by_hand() -> None:
    found = predictions(torch.tensor([[0.0, math.log(3.0)], [-1e4, 1e4]], dtype=torch.float32), "probability")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.array([[0.5, 0.75], [0, 1]], np.float32))
    assert predictions(torch.empty(0, 2), "probability").shape == (0, 2)


@pytest.mark.parametrize("size", [1, 7, 16, 33])
def test_a_place_in_the_batch_changes_no_bit(size: int) -> None:
    logits = torch.linspace(-20, 20, 33 * 7 * 16)
    whole = predictions(logits, "probability")
    parts = np.concatenate([predictions(part, "probability") for part in logits.split(size)])
    np.testing.assert_array_equal(parts.view(np.int32), whole.view(np.int32))
    np.testing.assert_allclose(whole, logits.sigmoid().numpy(), rtol=1e-6)


def test_values_and_amounts_by_hand() -> None:
    output = torch.tensor([0.0, math.log(3.0), -2.0])
    np.testing.assert_array_equal(predictions(output, "value"), output.numpy())
    np.testing.assert_allclose(predictions(output, "amount"), [1, 3, math.exp(-2)], rtol=1e-6)
