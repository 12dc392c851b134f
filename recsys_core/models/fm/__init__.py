"""Factorisation machine: a weight for each id, and the dot products of all pairs of features' factors.

Rendle 2010, Factorization Machines (section III): ŷ = w0 + Σ w_i x_i + Σ_{i<j} <v_i, v_j> x_i x_j. An embedding holds
both: its first number is the id's weight w, the others are its factors v, so `features.embedding_dim` is one more than
these.
"""

from typing import Literal

from recsys_core.artifacts import ComponentConfig


class Config(ComponentConfig):
    """YAML section `model`; there is nothing to choose."""

    kind: Literal["fm"] = "fm"
