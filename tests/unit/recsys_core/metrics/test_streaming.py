"""AUC from counts: by hand, and beside the exact one."""

import numpy as np
import pytest
import torch

from recsys_core.metrics.ranking.auc import auc
from recsys_core.metrics.streaming import Histogram, auc_of_counts

CPU = torch.device("cpu")


def test_auc_of_counts_by_hand():
    # Two bins: below are 3 negatives and 1 positive, above 1 negative and 2 positives. Of 4 * 3 pairs the positive
    # below ties with 3, each of the two above wins 3 and ties with 1.
    assert auc_of_counts(np.array([3.0, 1, 1, 2])) == pytest.approx((1.5 + 2 * 3.5) / 12)
    assert auc_of_counts(np.array([3.0, 1, 0, 0])) is None
    assert auc_of_counts(np.zeros(4)) is None


@pytest.mark.parametrize("weighted", [False, True])
def test_batches_add_up_to_nearly_the_exact_auc_and_are_taken_once(weighted):
    rng = np.random.default_rng(5)
    labels = rng.random(3_000) < 0.3
    logits = rng.normal(size=3_000) * 3 + labels
    weights = rng.integers(0, 3, 3_000).astype(float) if weighted else np.ones(3_000)
    seen = Histogram()
    for part in np.array_split(np.arange(3_000), 7):
        given = torch.tensor(weights[part]) if weighted else None
        seen.add(torch.tensor(logits[part], dtype=torch.float32), torch.tensor(labels[part]).float(), given)
    counts = seen.take(CPU).numpy()
    assert counts.sum() == weights.sum()
    assert auc_of_counts(counts) == pytest.approx(auc(logits, labels, weights), abs=1e-4)
    assert not seen.take(CPU).any()
    seen.add(torch.tensor([-1e4, 1e4]), torch.tensor([0.0, 1.0]), None)
    assert auc_of_counts(seen.take(CPU).numpy()) == 1.0
