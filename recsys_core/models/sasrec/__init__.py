"""SASRec: causal self-attention over a query's sequence, whose states meet items of the same table.

Kang & McAuley 2018, Self-Attentive Sequential Recommendation (section III). Each block normalises before its layers
(Xiong et al. 2020), and positions are counted from the oldest entry that is kept. Trained on whole sequences
(`preprocess.examples: sequences`) with the softmax over all items it is what Klenitskiy & Vasilev 2023 (Turning Dross
Into Gold Loss, section 3) found best.
"""

from typing import Literal

from pydantic import Field

from recsys_core.models.blocks.sections import Ordered


class Config(Ordered):
    """YAML section `model`."""

    kind: Literal["sasrec"] = "sasrec"
    num_blocks: int = Field(default=2, ge=1, description="transformer blocks, one behind the other")
    num_heads: int = Field(default=1, ge=1, description="heads of attention of each; they divide output_dim")
    forward_dim: int = Field(default=256, ge=1, description="hidden width of each block's feed-forward network")
