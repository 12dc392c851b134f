"""Negatives drawn from the item table by its `sampling_weight`, with replacement, shared by the batch.

The weights are made by preprocess: of how often an item was taken, or of `weights`, a table of the user's.
Weights of popularity**0.75 follow word2vec (Mikolov et al. 2013, section 2.2); equal weights make the draw uniform.
"""

from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from recsys_core.artifacts import ComponentConfig
from recsys_core.samplers import base


class Config(ComponentConfig):
    """YAML section `sampler`."""

    kind: Literal["weighted"] = "weighted"
    weights: Path | None = Field(
        default=None,
        description="your own weight of each item, every item once: a .parquet file of item_id and weight, or text "
        "whose first line is id:int64, weight:float, attrs:string, with tabs between; null: by preprocess.sampling",
    )
    num_negatives: int = Field(default=2048, ge=1, description="negatives shared by one rank's batch")


class Sampler(base.Sampler):
    """Inverts the cumulative weights: a draw of N costs N·log(num_items)."""

    def __init__(self, config: Config, weights: np.ndarray) -> None:
        """`weights` [num_items]: not negative, not all zero.

        Raises:
            ValueError: a weight is negative or not finite, or all are zero.
        """
        if not np.isfinite(weights).all() or (weights < 0).any() or not weights.any():
            raise ValueError("sampling weights must be finite, not negative, and not all zero; see preprocess.sampling")
        self.num_negatives = config.num_negatives
        self._cumulative = np.cumsum(weights, dtype=np.float64)
        with np.errstate(divide="ignore"):
            self.log_probability = np.log(weights / self._cumulative[-1]).astype(np.float32)

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """See `base.Sampler.draw`."""
        points = rng.random(self.num_negatives) * self._cumulative[-1]
        return np.searchsorted(self._cumulative, points, side="right")
