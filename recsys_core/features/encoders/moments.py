"""Means, deviations and extremes of numbers, which normalisers are fitted with."""

from typing import Self

import numpy as np


class Moments:
    """Per number of a row: how many were seen, their mean, squared differences from it, minimum and maximum."""

    def __init__(self, dim: int) -> None:
        self.count, self.mean, self.squares = np.zeros(dim), np.zeros(dim), np.zeros(dim)
        self.low, self.high = np.full(dim, np.inf), np.full(dim, -np.inf)

    def add(self, numbers: np.ndarray) -> None:
        """Merge float64 [B, dim], NaN left out; Chan's update, so that a large mean costs no precision."""
        known = ~np.isnan(numbers)
        count = known.sum(axis=0)
        mean = np.where(known, numbers, 0).sum(axis=0) / np.maximum(count, 1)
        squares = (np.where(known, numbers - mean, 0) ** 2).sum(axis=0)
        total = np.maximum(self.count + count, 1)
        difference = mean - self.mean
        self.squares = self.squares + squares + difference**2 * self.count * count / total
        self.mean = self.mean + difference * count / total
        self.count = self.count + count
        self.low = np.minimum(self.low, np.where(known, numbers, np.inf).min(axis=0, initial=np.inf))
        self.high = np.maximum(self.high, np.where(known, numbers, -np.inf).max(axis=0, initial=-np.inf))

    def shift_and_scale(self, normalizer: str) -> tuple[np.ndarray, np.ndarray]:
        """Return what to subtract and what to divide by; a column without spread is divided by 1."""
        if normalizer == "zscore":
            shift, scale = self.mean, np.sqrt(self.squares / np.maximum(self.count, 1))
        else:
            seen = self.count > 0
            shift, scale = np.where(seen, self.low, 0), np.where(seen, self.high - self.low, 0)
        return shift, np.where(scale > 0, scale, 1)

    def to_json(self) -> dict[str, list[float | None]]:
        """Return the figures by name; JSON has no infinity, so the range of nothing is null."""
        return {name: [x if np.isfinite(x) else None for x in array.tolist()] for name, array in vars(self).items()}

    @classmethod
    def from_json(cls, state: dict[str, list[float | None]]) -> Self:
        """Read `to_json` back."""
        moments = cls(len(state["count"]))
        for name, empty in vars(moments).items():
            given = state[name]
            setattr(moments, name, np.array([e if g is None else g for g, e in zip(given, empty, strict=True)]))
        return moments
