"""SIM: of a long history the behaviours that are closest to the target are found first, and attended to then.

Pi et al. 2020, Search-based User Interest Modeling with Lifelong Sequential Behavior Data for Click-Through Rate
Prediction (section 3), with soft search. Both stages are trained together: what the first one weighs the whole
history by, which in the paper has a loss of its own, makes a vector that the MLP reads too.
"""

from typing import Literal, Self

from pydantic import Field, model_validator

from recsys_core.models.blocks.sections import Sequential


class Config(Sequential):
    """YAML section `model`."""

    kind: Literal["sim"] = "sim"
    num_found: int = Field(default=32, ge=1, description="behaviours that the search finds; at most `max_length`")
    num_heads: int = Field(default=2, ge=1, description="heads of attention to what is found")

    @model_validator(mode="after")
    def _finds_some_of_all(self) -> Self:
        if self.num_found > self.max_length:
            raise ValueError(f"num_found: {self.num_found}, of at most max_length {self.max_length}; lower it")
        return self
