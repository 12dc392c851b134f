"""JRC: binary cross-entropy, and beside it each row against the others of its group.

Sheng et al. 2023, Joint Optimization of Ranking and Calibration with Contextualized Hybrid Model (section 3). The
paper's model has a logit for each label; of one logit s these are s/2 and -s/2, whose softmax is the sigmoid of s.
Groups are those of `ranking.group`, as far as their rows meet in a batch of one rank.
"""

from typing import Literal

from pydantic import Field

from recsys_core.artifacts import ComponentConfig


class Config(ComponentConfig):
    """YAML section `loss` of a ranking config."""

    kind: Literal["jrc"] = "jrc"
    alpha: float = Field(
        default=0.5, ge=0, le=1, description="weight of binary cross-entropy, against 1 - alpha of the order in groups"
    )
