"""HSTU: causal attention whose weights are SiLUs and no softmax, gated by the token itself, with a bias by distance.

Zhai et al. 2024, Actions Speak Louder than Words: Trillion-Parameter Sequential Transducers for Generative
Recommendations (section 3). Its weights add up to no constant, so that how often something was done is not lost. The
bias is by how many entries lie between two; histories have no times here, which the paper's bias reads too.
"""

from typing import Literal

from pydantic import Field

from recsys_core.models.blocks.sections import Ordered


class Config(Ordered):
    """YAML section `model`."""

    kind: Literal["hstu"] = "hstu"
    num_blocks: int = Field(default=2, ge=1, description="layers, one behind the other")
    num_heads: int = Field(default=1, ge=1, description="heads of attention of each; they divide output_dim")
