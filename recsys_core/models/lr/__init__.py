"""Logistic regression: one weight for each id, and one for each dense field.

Richardson et al. 2007, Predicting Clicks: Estimating the Click-Through Rate for New Ads (section 4); McMahan et al.
2013, Ad Click Prediction: a View from the Trenches (section 3). An id's weight is the sum of its embedding, so that
tables may be as narrow as they can be: `features.embedding_dim: 4`. Crosses are features of `kind: combo`.
"""

from typing import Literal

from recsys_core.artifacts import ComponentConfig


class Config(ComponentConfig):
    """YAML section `model`; there is nothing to choose."""

    kind: Literal["lr"] = "lr"
