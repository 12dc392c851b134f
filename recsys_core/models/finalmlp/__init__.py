"""FinalMLP: two MLPs over features that each selects by a gate, fused by a bilinear form.

Mao et al. 2023, FinalMLP: An Enhanced Two-Stream MLP Model for CTR Prediction (section 3).
"""

from typing import Literal, Self

from pydantic import Field, PositiveInt, model_validator

from recsys_core.artifacts import ComponentConfig, Frozen


class Stream(Frozen):
    """One of the two MLPs, and the gate over what it reads."""

    hidden: tuple[PositiveInt, ...] = Field(min_length=1, description="its widths; the last one is that of its output")
    gate: tuple[str, ...] = Field(
        default=(), description="features of ids that its gate depends on; []: the gate is the same for all examples"
    )
    gate_hidden: tuple[PositiveInt, ...] = Field(default=(64,), description="hidden widths of the gate's MLP")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="of its hidden layers")


class Config(ComponentConfig):
    """YAML section `model`."""

    kind: Literal["finalmlp"] = "finalmlp"
    first: Stream = Stream(hidden=(400, 400))
    second: Stream = Stream(hidden=(400,))
    num_heads: int = Field(default=1, ge=1, description="of the fusion: each is a form of a part of both outputs")

    @model_validator(mode="after")
    def _heads_divide_outputs(self) -> Self:
        for name, stream in (("first", self.first), ("second", self.second)):
            if stream.hidden[-1] % self.num_heads:
                raise ValueError(
                    f"num_heads: {self.num_heads}, and {name}.hidden ends in {stream.hidden[-1]}, of which each head "
                    "takes a part; make it a multiple"
                )
        return self
