"""Binary cross-entropy of logits."""

from typing import Literal

from recsys_core.artifacts import ComponentConfig


class Config(ComponentConfig):
    """YAML section `loss` of a ranking config."""

    kind: Literal["binary_cross_entropy"] = "binary_cross_entropy"
