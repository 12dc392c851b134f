"""Several losses of the same logits, added up with a weight each."""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema, model_validator

from recsys_core.artifacts import ComponentConfig, Frozen
from recsys_core.lookup import OneOf


def _dumped(config: ComponentConfig) -> dict[str, Any]:
    return config.model_dump(mode="json")


class Part(Frozen):
    """One of them."""

    weight: float = Field(default=1.0, gt=0, description="of the loss in the sum")
    # Any loss but this one; the schema that lists all of them would have no end.
    loss: Annotated[
        ComponentConfig,
        BeforeValidator(OneOf("recsys_core.losses").parse),
        PlainSerializer(_dumped),
        WithJsonSchema({"type": "object", "description": "a section `loss` of another kind"}),
    ]


class Config(ComponentConfig):
    """YAML section `loss` of a ranking config."""

    kind: Literal["weighted"] = "weighted"
    parts: tuple[Part, ...] = Field(min_length=1, description="the losses, each with its weight")

    @model_validator(mode="after")
    def _of_others(self) -> Self:
        if any(isinstance(part.loss, Config) for part in self.parts):
            raise ValueError("parts: one is of kind weighted itself; name its parts here")
        return self
