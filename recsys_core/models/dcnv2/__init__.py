"""DCN-V2: cross layers with a matrix each, whole, of low rank or as a mixture of low-rank experts, and an MLP.

Wang et al. 2021, DCN V2: Improved Deep & Cross Network and Practical Lessons for Web-scale Learning to Rank Systems
(sections 3.2 to 3.5).
"""

from typing import Literal, Self

from pydantic import Field, PositiveInt, model_validator

from recsys_core.artifacts import ComponentConfig


class Config(ComponentConfig):
    """YAML section `model`."""

    kind: Literal["dcnv2"] = "dcnv2"
    num_crosses: int = Field(default=3, ge=1, description="cross layers")
    rank: PositiveInt | None = Field(default=None, description="of each cross layer's matrix; null: it is whole")
    num_experts: int = Field(
        default=1, ge=1, description="matrices of low rank that each layer mixes, by a softmax over its input"
    )
    structure: Literal["parallel", "stacked"] = Field(
        default="parallel", description="whether the MLP stands beside the cross layers, or behind them"
    )
    hidden: tuple[PositiveInt, ...] = Field(default=(400, 400), description="hidden widths of the MLP")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="of the MLP")

    @model_validator(mode="after")
    def _experts_are_of_low_rank(self) -> Self:
        if self.num_experts > 1 and self.rank is None:
            raise ValueError(f"num_experts: {self.num_experts} experts are of low rank each; set rank, such as 32")
        return self
