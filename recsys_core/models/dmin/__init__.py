"""DMIN: self-attention refines the behaviours, and each head of a second one makes an interest of its own.

Xiao et al. 2020, Deep Multi-Interest Network for Click-through Rate Prediction (section 3). Each interest is what its
head has made of the behaviours, weighed by an MLP that compares them with the target and by a softmax. A model ends at
its logits, so that the paper's auxiliary loss is not part of it.
"""

from typing import Literal

from pydantic import Field, PositiveInt

from recsys_core.models.blocks.sections import Sequential


class Config(Sequential):
    """YAML section `model`."""

    kind: Literal["dmin"] = "dmin"
    num_heads: int = Field(default=4, ge=1, description="interests; they divide an element's width")
    attention_hidden: tuple[PositiveInt, ...] = Field(
        default=(32,), description="hidden widths of the MLP that compares behaviours with the target"
    )
