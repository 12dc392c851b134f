"""DCN's modules. Legend: B examples, X inputs (pooled widths and dense fields)."""

import torch
from torch import Tensor, nn

from recsys_core.models.blocks import layout
from recsys_core.models.blocks.crosses import Crossed, of_crossed
from recsys_core.models.blocks.shared import PooledModel
from recsys_core.models.dcn import Config


class Cross(nn.Module):
    """x_0 (w · x_l) + b + x_l (equation 3): [B, X] → [B, X]."""

    def __init__(self, num_inputs: int) -> None:
        """`num_inputs` is X."""
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_inputs))
        nn.init.normal_(self.weight, std=num_inputs**-0.5)
        self.bias = nn.Parameter(torch.zeros(num_inputs))

    def forward(self, first: Tensor, crossed: Tensor) -> Tensor:
        """Return the next layer's input."""
        return first * torch.mv(crossed, self.weight).unsqueeze(1) + self.bias + crossed


class Model(PooledModel[Config]):
    """See `PooledModel`."""

    def make_head(self, config: Config) -> nn.Module:
        """See the base class."""
        crosses = [Cross(self.num_inputs) for _ in range(config.num_crosses)]
        return Crossed(self.num_inputs, crosses, config.structure, config.hidden, config.dropout)

    def layout(self) -> layout.Layout:
        """See `base.RetrievalModel.layout`."""
        head = self.head
        assert isinstance(head, Crossed)
        inputs = self.inputs()
        found = of_crossed("head", head, inputs)
        for number in range(len(head.crosses)):
            for part in ("weight", "bias"):
                place = f"head cross {number} {part}"
                found[f"head.crosses.{number}.{part}"] = layout.Weight(place=place, axes=(inputs,))
        return found
