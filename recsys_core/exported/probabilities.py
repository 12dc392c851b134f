"""The probabilities of logits."""

import numpy as np
from scipy.special import expit
from torch import Tensor


def probabilities(logits: Tensor) -> np.ndarray:
    """Return the sigmoid of each number, float32 of the same shape.

    torch's own rounds otherwise in the vectors of a processor than behind the last whole one, so that a row's last bit
    would depend on where it stands in its batch.
    """
    return expit(logits.double().numpy()).astype(np.float32)
