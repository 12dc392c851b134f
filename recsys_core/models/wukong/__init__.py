"""WuKong: stacked factorisation machines, whose layers make vectors of vectors, so that pairs of pairs meet.

Zhang et al. 2024, Wukong: Towards a Scaling Law for Large-Scale Recommendation (section 3).
"""

from typing import Literal

from pydantic import Field, PositiveInt

from recsys_core.artifacts import ComponentConfig


class Config(ComponentConfig):
    """YAML section `model`."""

    kind: Literal["wukong"] = "wukong"
    num_layers: int = Field(default=2, ge=1, description="layers")
    machine_vectors: int = Field(default=8, ge=1, description="vectors that each layer's factorisation machine makes")
    kept_vectors: int = Field(
        default=8, ge=1, description="vectors that each layer makes as weighted sums of its inputs"
    )
    rank: int = Field(default=8, ge=1, description="vectors that each vector is compared with, instead of all others")
    machine_hidden: tuple[PositiveInt, ...] = Field(
        default=(128,), description="hidden widths of the MLP behind each layer's factorisation machine"
    )
    hidden: tuple[PositiveInt, ...] = Field(
        default=(400, 400), description="hidden widths of the MLP over the last layer"
    )
    dropout: float = Field(default=0.0, ge=0, lt=1, description="of the last MLP")
