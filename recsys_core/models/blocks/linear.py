"""The linear part of a model over its dense fields. Legend: B examples, F dense fields."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recsys_core.features import NumberFeature
from recsys_core.models.blocks import layout


class Numbers(nn.Module):
    """Dense fields [B, F] → [B]: their sum, each times its weight; zeros where there are no fields."""

    weight: Tensor | None

    def __init__(self, num_dense: int) -> None:
        """`num_dense` is F."""
        super().__init__()
        self.register_parameter("weight", nn.Parameter(torch.zeros(num_dense)) if num_dense else None)

    def forward(self, dense: Tensor) -> Tensor:
        """Return the examples' sums."""
        weight = self.weight
        return dense.new_zeros(dense.shape[0]) if weight is None else torch.mv(dense, weight)


def of_numbers(name: str, dense: Sequence[NumberFeature]) -> layout.Layout:
    """Return the layout of `Numbers` that are called `name` in their model's state."""
    if not dense:
        return {}
    return {f"{name}.weight": layout.Weight(place=f"{name} weight", axes=(layout.numbers(dense),))}
