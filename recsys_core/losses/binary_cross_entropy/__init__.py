"""Binary cross-entropy of logits."""

from typing import Literal

from pydantic import Field

from recsys_core.artifacts import ComponentConfig


class Config(ComponentConfig):
    """YAML section `loss` of a ranking config."""

    kind: Literal["binary_cross_entropy"] = "binary_cross_entropy"
    label_smoothing: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="the share of each label that is moved half to 1 and half to 0, in training only (Szegedy et al. "
        "2016, section 7): at 0.1 a label of 1 is learned as 0.95, one of 0 as 0.05",
    )
