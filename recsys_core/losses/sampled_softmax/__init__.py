"""Sampled softmax over a positive and shared negatives.

Correction for the sampling distribution (logQ) as in Bengio & Senécal 2008; in-batch negatives with the same correction
as in Yi et al. 2019 (section 4, equation 6), mixed with sampled ones as in Yang et al. 2020.
"""

from typing import Literal

from pydantic import Field

from recsys_core.artifacts import ComponentConfig


class Config(ComponentConfig):
    """YAML section `loss`."""

    kind: Literal["sampled_softmax"] = "sampled_softmax"
    temperature: float = Field(default=0.1, gt=0, description="divides the similarity before the softmax")
    in_batch_negatives: bool = Field(default=False, description="other rows' positives are negatives too")
    logq_correction: bool = Field(
        default=True, description="subtract log of each item's expected count: scores then rank as a full softmax's do"
    )
