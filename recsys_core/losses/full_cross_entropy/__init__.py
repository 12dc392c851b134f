"""Cross-entropy of the positive among all items of the table: the softmax that sampled ones approach.

Without a sampler, so without `sampler`. Each step computes the vectors of all items, and queries times items logits a
block at a time: for tables of up to some hundred thousand items. That it is what makes SASRec strong: Klenitskiy &
Vasilev 2023, Turning Dross Into Gold Loss (section 3).
"""

from typing import ClassVar, Literal

from pydantic import Field

from recsys_core.artifacts import ComponentConfig


class Config(ComponentConfig):
    """YAML section `loss`."""

    over_catalogue: ClassVar[bool] = True

    kind: Literal["full_cross_entropy"] = "full_cross_entropy"
    temperature: float = Field(default=1.0, gt=0, description="divides the similarity before the softmax")
