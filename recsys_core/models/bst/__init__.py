"""BST: a transformer over the behaviours and the target beside them.

Chen et al. 2019, Behavior Sequence Transformer for E-commerce Recommendation in Alibaba (section 3). Positions count
back from the target, and their vectors are added.
"""

from typing import Literal

from pydantic import Field, PositiveInt

from recsys_core.artifacts import ComponentConfig
from recsys_core.models.blocks.sections import Behaviours


class Config(ComponentConfig):
    """YAML section `model`."""

    kind: Literal["bst"] = "bst"
    behaviours: Behaviours = Field(description="the sequences, and what each is compared with")
    max_length: int = Field(
        ge=1, description="places of a sequence; its features keep at most as many elements (features, max_length)"
    )
    num_blocks: int = Field(default=1, ge=1, description="transformer blocks, one behind the other")
    num_heads: int = Field(default=2, ge=1, description="heads of attention of each; they divide an element's width")
    forward_dim: int = Field(default=64, ge=1, description="hidden width of each block's feed-forward network")
    hidden: tuple[PositiveInt, ...] = Field(default=(128, 64), description="hidden widths of the MLP over everything")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="of the MLP")
