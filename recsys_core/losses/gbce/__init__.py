"""gBCE: binary cross-entropy of a positive and negatives, in which the positive counts less than one, by a power of it.

Petrov & Macdonald 2023, gSASRec: Reducing Overconfidence in Sequential Recommendation Trained with Negative Sampling.
Where few of all items are drawn as negatives, plain binary cross-entropy (`calibration: 0`) makes probabilities of what
ranks high come out close to 1, and its gradient vanish there. Negatives are meant to be drawn evenly
(`preprocess.sampling: {alpha: 0}`).
"""

from typing import Literal

from pydantic import Field

from recsys_core.artifacts import ComponentConfig


class Config(ComponentConfig):
    """YAML section `loss`."""

    kind: Literal["gbce"] = "gbce"
    calibration: float = Field(
        default=0.75,
        ge=0,
        le=1,
        description="t of the paper; 0: plain binary cross-entropy, 1: probabilities as if all items were negatives",
    )
    temperature: float = Field(default=1.0, gt=0, description="divides the similarity before the sigmoid")
