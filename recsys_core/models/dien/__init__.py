"""DIEN: a recurrent network over behaviours, and a second one whose steps are as large as each is close to the target.

Zhou et al. 2019, Deep Interest Evolution Network for Click-Through Rate Prediction (section 4). A model ends at its
logits, so that the paper's auxiliary loss, which predicts the next behaviour, is not part of it.
"""

from typing import Literal

from recsys_core.models.blocks.sections import Sequential


class Config(Sequential):
    """YAML section `model`."""

    kind: Literal["dien"] = "dien"
