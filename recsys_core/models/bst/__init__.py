"""BST: a transformer over the behaviours and the target beside them.

Chen et al. 2019, Behavior Sequence Transformer for E-commerce Recommendation in Alibaba (section 3). Positions count
back from the target, and their vectors are added.
"""

from typing import Literal

from pydantic import Field

from recsys_core.models.blocks.sections import Sequential


class Config(Sequential):
    """YAML section `model`."""

    kind: Literal["bst"] = "bst"
    num_blocks: int = Field(default=1, ge=1, description="transformer blocks, one behind the other")
    num_heads: int = Field(default=2, ge=1, description="heads of attention of each; they divide an element's width")
    forward_dim: int = Field(default=64, ge=1, description="hidden width of each block's feed-forward network")
