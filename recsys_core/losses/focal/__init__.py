"""Focal loss: binary cross-entropy in which rows that are predicted well count less.

Lin et al. 2017, Focal Loss for Dense Object Detection (section 3).
"""

from typing import Literal

from pydantic import Field

from recsys_core.artifacts import ComponentConfig


class Config(ComponentConfig):
    """YAML section `loss` of a ranking config."""

    kind: Literal["focal"] = "focal"
    gamma: float = Field(default=2.0, ge=0, description="how much less they count; 0: as in binary cross-entropy")
    alpha: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="weight of positive rows, against 1 - alpha of the others; null: all are 1",
    )
