"""GDCN's modules. Legend: B examples, X inputs (pooled widths and dense fields)."""

import torch
from torch import Tensor, nn

from recsys_core.models.blocks import layout
from recsys_core.models.blocks.crosses import Crossed, of_crossed
from recsys_core.models.blocks.shared import PooledModel
from recsys_core.models.gdcn import Config


class GatedCross(nn.Module):
    """c_0 ⊙ (W_c c_l + b) ⊙ sigmoid(W_g c_l) + c_l: [B, X] → [B, X]."""

    def __init__(self, num_inputs: int) -> None:
        """`num_inputs` is X."""
        super().__init__()
        self.cross = nn.Linear(num_inputs, num_inputs)
        self.gate = nn.Linear(num_inputs, num_inputs, bias=False)

    def forward(self, first: Tensor, crossed: Tensor) -> Tensor:
        """Return the next layer's input."""
        return first * self.cross(crossed) * torch.sigmoid(self.gate(crossed)) + crossed


class Model(PooledModel[Config]):
    """See `PooledModel`."""

    def make_head(self, config: Config) -> nn.Module:
        """See the base class."""
        crosses = [GatedCross(self.num_inputs) for _ in range(config.num_crosses)]
        return Crossed(self.num_inputs, crosses, config.structure, config.hidden, config.dropout)

    def layout(self) -> layout.Layout:
        """See `base.RetrievalModel.layout`."""
        head = self.head
        assert isinstance(head, Crossed)
        inputs = self.inputs()
        found = of_crossed("head", head, inputs)
        for number, cross in enumerate(head.crosses):
            assert isinstance(cross, GatedCross)
            for name, part in (("cross", cross.cross), ("gate", cross.gate)):
                called = f"head.crosses.{number}.{name}"
                found |= layout.of_linear(called, f"head {name} {number}", part, inputs, inputs)
        return found
