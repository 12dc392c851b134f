"""AutoInt: self-attention among the features' vectors, and with `hidden` an MLP beside it (AutoInt+).

Song et al. 2019, AutoInt: Automatic Feature Interaction Learning via Self-Attentive Neural Networks (section 4).
"""

from typing import Literal

from pydantic import Field, PositiveInt

from recsys_core.artifacts import ComponentConfig


class Config(ComponentConfig):
    """YAML section `model`."""

    kind: Literal["autoint"] = "autoint"
    num_layers: int = Field(default=3, ge=1, description="layers of attention")
    num_heads: int = Field(default=2, ge=1, description="of each layer")
    head_dim: int = Field(default=32, ge=1, description="width of each head")
    hidden: tuple[PositiveInt, ...] = Field(
        default=(), description="hidden widths of an MLP over all vectors, beside the attention; []: there is none"
    )
    dropout: float = Field(default=0.0, ge=0, lt=1, description="of the MLP")
