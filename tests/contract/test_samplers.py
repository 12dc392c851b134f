"""What every negative sampler promises: draws are rows of the item table, as likely as it says, and repeatable."""

import numpy as np
import pytest

from recsys_core import lookup

CATALOGUE = "recsys_core.samplers"
# Keys that a kind cannot do without.
KEYS = {"impressions": {"source": "impressions"}}
WEIGHTS = np.array([1.0, 0.0, 3.0, 4.0, 2.0])


@pytest.mark.parametrize("kind", lookup.kinds(CATALOGUE))
def test_draws_are_as_likely_as_the_sampler_says(kind):
    component = lookup.component(CATALOGUE, kind)
    config = component.Config.model_validate({"num_negatives": 100_000} | KEYS.get(kind, {}))
    assert component.Config.model_validate(config.model_dump(mode="json")) == config
    sampler = component.Sampler(config, WEIGHTS)
    probability = np.exp(sampler.log_probability.astype(np.float64))
    assert sampler.log_probability.dtype == np.float32
    assert probability.sum() == pytest.approx(1, abs=1e-6)
    drawn = sampler.draw(np.random.default_rng(0))
    assert (drawn.dtype, drawn.shape) == (np.int64, (sampler.num_negatives,))
    assert np.bincount(drawn, minlength=len(WEIGHTS)) / len(drawn) == pytest.approx(probability, abs=0.01)
    assert not (drawn == 1).any()
    assert np.array_equal(drawn, component.Sampler(config, WEIGHTS).draw(np.random.default_rng(0)))


@pytest.mark.parametrize("kind", lookup.kinds(CATALOGUE))
def test_unknown_keys_and_weights_that_are_none_are_refused(kind):
    component = lookup.component(CATALOGUE, kind)
    with pytest.raises(ValueError, match="num_negative"):
        component.Config.model_validate(KEYS.get(kind, {}) | {"num_negative": 3})
    config = component.Config.model_validate(KEYS.get(kind, {}))
    for weights in ([0.0, 0.0], [1.0, -1.0], [1.0, float("nan")]):
        with pytest.raises(ValueError, match=r"preprocess\.sampling"):
            component.Sampler(config, np.array(weights))
