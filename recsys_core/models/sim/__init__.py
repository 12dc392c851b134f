"""SIM: of a long history the behaviours that are closest to the target are found first, and attended to then.

Pi et al. 2020, Search-based User Interest Modeling with Lifelong Sequential Behavior Data for Click-Through Rate
Prediction (section 3), with soft search. Both stages are trained together: what the first one weighs the whole
history by, which in the paper has a loss of its own, makes a vector that the MLP reads too.
"""

from typing import Literal, Self

from pydantic import Field, PositiveInt, model_validator

from recsys_core.artifacts import ComponentConfig
from recsys_core.models.blocks.sections import Behaviours


class Config(ComponentConfig):
    """YAML section `model`."""

    kind: Literal["sim"] = "sim"
    behaviours: Behaviours = Field(description="the sequences, and what each is compared with")
    max_length: int = Field(
        ge=1, description="places of a sequence; its features keep at most as many elements (features, max_length)"
    )
    num_found: int = Field(default=32, ge=1, description="behaviours that the search finds; at most `max_length`")
    num_heads: int = Field(default=2, ge=1, description="heads of attention to what is found")
    hidden: tuple[PositiveInt, ...] = Field(default=(128, 64), description="hidden widths of the MLP over everything")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="of the MLP")

    @model_validator(mode="after")
    def _finds_some_of_all(self) -> Self:
        if self.num_found > self.max_length:
            raise ValueError(f"num_found: {self.num_found}, of at most max_length {self.max_length}; lower it")
        return self
