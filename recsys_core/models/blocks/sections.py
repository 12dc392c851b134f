"""Sections of the config that several models have. Free of torch."""

from typing import Literal, Self

from pydantic import Field, PositiveInt, model_validator

from recsys_core.artifacts import ComponentConfig, Frozen


class Tower(Frozen):
    """A deep tower: `features` that it reads (null: every pooled one), and whether it reads the dense fields."""

    features: tuple[str, ...] | None = None
    dense: bool = True
    hidden: tuple[PositiveInt, ...] = Field(min_length=1)


class Behaviours(Frozen):
    """Sequences (`pooling: none`, as long as each other in every row) and, in the same order, their targets.

    The target of a sequence of ids is a pooled feature of its table; that of a sequence of numbers is a feature of as
    many numbers, or null: then its numbers are compared with zeros.
    """

    sequences: tuple[str, ...] = Field(min_length=1)
    targets: tuple[str | None, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _is_compared(self) -> Self:
        if not any(self.targets):
            raise ValueError("targets: all are null, so the sequences are compared with nothing; name a target")
        return self


class Sequential(ComponentConfig):
    """What every model has that pads its one set of behaviour sequences: a section `model`, without its `kind`."""

    behaviours: Behaviours = Field(description="the sequences, and what each is compared with")
    max_length: int = Field(
        ge=1, description="places of a sequence; its features keep at most as many elements (features, max_length)"
    )
    hidden: tuple[PositiveInt, ...] = Field(default=(128, 64), description="hidden widths of the MLP over everything")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="of the MLP")


class TaskTower(Frozen):
    """One task's part."""

    hidden: tuple[PositiveInt, ...] = Field(default=(32,), description="hidden widths of the task's tower")


class Tasks(ComponentConfig):
    """What models of several tasks have: a section `model`, without its `kind`."""

    tasks: dict[str, TaskTower] = Field(min_length=2, description="each task's tower, by the names of ranking.tasks")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="of all hidden layers")


class Ordered(ComponentConfig):
    """What every retrieval model has that reads sequences in their order: a section `model`, without its `kind`."""

    output_dim: int = Field(default=64, ge=1, description="width D of states, and of the embeddings that meet")
    max_length: int = Field(
        ge=1, description="entries of a sequence at most; its features keep at most as many (features, max_length)"
    )
    dropout: float = Field(default=0.2, ge=0, lt=1, description="of entries, and of what each layer adds to them")
    similarity: Literal["cosine", "inner_product"] = "inner_product"
