"""The contract of a negative sampler."""

from abc import ABC, abstractmethod

import numpy as np


class Sampler(ABC):
    """Draws rows of the item table that serve as negatives for a whole batch.

    Attributes:
        num_negatives: N, the negatives of one batch.
        log_probability: [num_items] float32, log of the chance that one draw gives the item.
    """

    num_negatives: int
    log_probability: np.ndarray

    @abstractmethod
    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """Return [N] int64 rows of the item table."""
