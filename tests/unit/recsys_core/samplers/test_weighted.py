"""The weighted negative sampler against its own probabilities."""

import numpy as np
import pytest

from recsys_core.samplers.weighted import Config, Sampler


def test_draws_follow_the_weights():
    sampler = Sampler(Config(num_negatives=200_000), np.array([1.0, 0.0, 3.0]))
    drawn = np.bincount(sampler.draw(np.random.default_rng(0)), minlength=3) / 200_000
    assert drawn[1] == 0
    assert drawn[[0, 2]] == pytest.approx([0.25, 0.75], abs=0.005)
    assert np.exp(sampler.log_probability) == pytest.approx([0.25, 0.0, 0.75])


def test_the_same_generator_draws_the_same():
    sampler = Sampler(Config(num_negatives=50), np.arange(1.0, 100.0))
    first, again = (sampler.draw(np.random.default_rng((1, 2))) for _ in range(2))
    assert (first == again).all()
    assert first.min() >= 0
    assert first.max() < 99


@pytest.mark.parametrize("weights", [[0.0, 0.0], [1.0, -1.0], [1.0, float("nan")]])
def test_weights_that_are_no_weights_are_refused(weights):
    with pytest.raises(ValueError, match=r"preprocess\.sampling"):
        Sampler(Config(), np.array(weights))
