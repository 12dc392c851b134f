"""Metrics of a training that is under way, from counts that batches and ranks add to. Legend: B rows."""

import numpy as np
import torch
from torch import Tensor


class Histogram:
    """Weights of rows by label and by predicted probability, in equal bins: no rows are kept, and none are sorted."""

    def __init__(self, num_bins: int = 4_096) -> None:
        """Rows whose probabilities differ by less than 1/`num_bins` may count as ties."""
        self._num_bins = num_bins
        self._counts: Tensor | None = None

    def add(self, logits_B: Tensor, labels_B: Tensor, weights_B: Tensor | None) -> None:
        """Count a batch, on its device; nothing waits for it."""
        bins_B = (logits_B.detach().float().sigmoid() * self._num_bins).long().clamp(0, self._num_bins - 1)
        places_B = bins_B + self._num_bins * (labels_B > 0.5).long()
        if self._counts is None:
            self._counts = torch.zeros(2 * self._num_bins, dtype=torch.float64, device=logits_B.device)
        ones_B = torch.ones_like(places_B) if weights_B is None else weights_B
        self._counts.index_add_(0, places_B, ones_B.double())

    def take(self, device: torch.device) -> Tensor:
        """Return float64 [2 * bins], negatives first, of the rows since the last call."""
        counts, self._counts = self._counts, None
        return torch.zeros(2 * self._num_bins, dtype=torch.float64, device=device) if counts is None else counts


def auc_of_counts(counts: np.ndarray) -> float | None:
    """Return the AUC of what `Histogram.take` gives, rows of a bin being ties; None unless there are both labels."""
    negatives, positives = counts.reshape(2, -1)
    pairs = float(negatives.sum() * positives.sum())
    return float(positives @ (np.cumsum(negatives) - negatives / 2)) / pairs if pairs else None
