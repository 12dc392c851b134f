"""DIEN: a recurrent network over behaviours, and a second one whose steps are as large as each is close to the target.

Zhou et al. 2019, Deep Interest Evolution Network for Click-Through Rate Prediction (section 4). A model ends at its
logits, so that the paper's auxiliary loss, which predicts the next behaviour, is not part of it.
"""

from typing import Literal

from pydantic import Field, PositiveInt

from recsys_core.artifacts import ComponentConfig
from recsys_core.models.blocks.sections import Behaviours


class Config(ComponentConfig):
    """YAML section `model`."""

    kind: Literal["dien"] = "dien"
    behaviours: Behaviours = Field(description="the sequences, and what each is compared with")
    max_length: int = Field(
        ge=1, description="places of a sequence; its features keep at most as many elements (features, max_length)"
    )
    hidden: tuple[PositiveInt, ...] = Field(default=(128, 64), description="hidden widths of the MLP over everything")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="of the MLP")
