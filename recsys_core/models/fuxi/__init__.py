"""FuXi-alpha: attention by content and by distance in channels of their own, a gate, and a gated feed-forward network.

Ye et al. 2025, FuXi-alpha: Scaling Recommendation Model with Feature Interaction Enhanced Transformer (section 3).
Histories have no times here, which the paper's third channel reads, so that there are two; both weigh the same values.
"""

from typing import Literal

from pydantic import Field

from recsys_core.models.blocks.sections import Ordered


class Config(Ordered):
    """YAML section `model`."""

    kind: Literal["fuxi"] = "fuxi"
    num_blocks: int = Field(default=2, ge=1, description="layers, one behind the other")
    num_heads: int = Field(default=1, ge=1, description="heads of attention of each; they divide output_dim")
    forward_dim: int = Field(default=256, ge=1, description="hidden width of each block's feed-forward network")
