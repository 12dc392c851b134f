"""What models of cross layers share: where the deep part stands, and what the logit is made of.

Legend: B examples, X inputs (pooled widths and dense fields).
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from recsys_core.models.blocks import layout
from recsys_core.models.blocks.mlp import mlp

Structure = Literal["parallel", "stacked"]


class Crossed(nn.Module):
    """(pooled [B, P], dense [B, F], unused lists) → logits [B], through cross layers (x_0, x_l) → x_{l+1}, all [B, X].

    `parallel` adds to a weighted sum of the last layer's output what an MLP makes of the inputs: one linear layer over
    both, as the papers have it, is such a sum. `stacked` puts the MLP behind the cross layers.
    """

    def __init__(
        self, num_inputs: int, crosses: Sequence[nn.Module], structure: Structure, hidden: Sequence[int], dropout: float
    ) -> None:
        """`hidden` are the MLP's widths."""
        super().__init__()
        self.crosses = nn.ModuleList(crosses)
        self.is_parallel: bool = structure == "parallel"
        self.output = nn.Linear(num_inputs, 1, bias=False) if self.is_parallel else nn.Identity()
        self.deep = mlp(num_inputs, hidden, 1, dropout)

    def forward(self, pooled: Tensor, dense: Tensor, unpooled: list[Tensor], lengths: list[Tensor]) -> Tensor:  # noqa: ARG002
        """Return the examples' logits."""
        first = torch.cat([pooled, dense], dim=1)
        crossed = first
        for cross in self.crosses:
            crossed = cross(first, crossed)
        if self.is_parallel:
            return (self.output(crossed) + self.deep(first)).squeeze(1)
        return self.deep(crossed).squeeze(1)


def of_crossed(name: str, head: nn.Module, inputs: layout.Axis) -> layout.Layout:
    """Return the layout of all of `Crossed`, called `name` in its model's state, but its cross layers."""
    assert isinstance(head, Crossed)
    found = layout.of_mlp(f"{name}.deep", head.deep, inputs)
    if isinstance(head.output, nn.Linear):
        output = layout.units("output", 1)
        found |= layout.of_linear(f"{name}.output", f"{name} output", head.output, output, inputs)
    return found
