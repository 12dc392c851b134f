"""What a model's output predicts."""

import numpy as np
from scipy.special import expit
from torch import Tensor

from recsys_core.artifacts.ranking import Predicts

_FUNCTIONS = {"probability": expit, "value": np.asarray, "amount": np.exp}


def predictions(output: Tensor, predicts: Predicts) -> np.ndarray:
    """Return the sigmoid of each number, the number itself or its exponential, float32 of the same shape.

    torch's own sigmoid rounds otherwise in the vectors of a processor than behind the last whole one, so that a row's
    last bit would depend on where it stands in its batch.
    """
    return _FUNCTIONS[predicts](output.double().numpy()).astype(np.float32)
