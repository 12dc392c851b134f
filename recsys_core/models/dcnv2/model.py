"""DCN-V2's modules. Legend: B examples, X inputs (pooled widths and dense fields), R rank, E experts."""

import torch
from torch import Tensor, nn

from recsys_core.models.blocks import layout
from recsys_core.models.blocks.crosses import Crossed, of_crossed
from recsys_core.models.blocks.shared import PooledModel
from recsys_core.models.dcnv2 import Config


class Cross(nn.Module):
    """x_0 ⊙ (W x_l + b) + x_l (equation 1): [B, X] → [B, X]."""

    def __init__(self, num_inputs: int) -> None:
        """`num_inputs` is X."""
        super().__init__()
        self.linear = nn.Linear(num_inputs, num_inputs)

    def forward(self, first: Tensor, crossed: Tensor) -> Tensor:
        """Return the next layer's input."""
        return first * self.linear(crossed) + crossed


class LowRankCross(nn.Module):
    """x_0 ⊙ (U (V x_l) + b) + x_l (equation 2), U and V of rank R."""

    def __init__(self, num_inputs: int, rank: int) -> None:
        """`num_inputs` is X."""
        super().__init__()
        self.down = nn.Linear(num_inputs, rank, bias=False)
        self.up = nn.Linear(rank, num_inputs)

    def forward(self, first: Tensor, crossed: Tensor) -> Tensor:
        """Return the next layer's input."""
        return first * self.up(self.down(crossed)) + crossed


class Expert(nn.Module):
    """x_0 ⊙ (U tanh(C tanh(V x_l)) + b) (equation 4)."""

    def __init__(self, num_inputs: int, rank: int) -> None:
        """`num_inputs` is X."""
        super().__init__()
        self.down = nn.Linear(num_inputs, rank, bias=False)
        self.middle = nn.Linear(rank, rank, bias=False)
        self.up = nn.Linear(rank, num_inputs)

    def forward(self, first: Tensor, crossed: Tensor) -> Tensor:
        """Return what the expert adds."""
        return first * self.up(torch.tanh(self.middle(torch.tanh(self.down(crossed)))))


class MixedCross(nn.Module):
    """Σ_e g_e(x_l) E_e(x_l) + x_l (equation 3), g a softmax of a linear layer over the experts."""

    def __init__(self, num_inputs: int, rank: int, num_experts: int) -> None:
        """`num_inputs` is X."""
        super().__init__()
        self.gate = nn.Linear(num_inputs, num_experts, bias=False)
        self.experts = nn.ModuleList(Expert(num_inputs, rank) for _ in range(num_experts))

    def forward(self, first: Tensor, crossed: Tensor) -> Tensor:
        """Return the next layer's input."""
        shares_BE = torch.softmax(self.gate(crossed), dim=1)
        mixed = crossed
        for number, expert in enumerate(self.experts):
            mixed = mixed + shares_BE[:, number : number + 1] * expert(first, crossed)
        return mixed


class Model(PooledModel[Config]):
    """See `PooledModel`."""

    def make_head(self, config: Config) -> nn.Module:
        """See the base class."""
        crosses = [_cross(self.num_inputs, config) for _ in range(config.num_crosses)]
        return Crossed(self.num_inputs, crosses, config.structure, config.hidden, config.dropout)

    def layout(self) -> layout.Layout:
        """See `base.RetrievalModel.layout`."""
        head = self.head
        assert isinstance(head, Crossed)
        inputs = self.inputs()
        found = of_crossed("head", head, inputs)
        for number, cross in enumerate(head.crosses):
            for name, part in cross.named_modules():
                if not isinstance(part, nn.Linear):
                    continue
                # All that is not as wide as the inputs is a layer's own.
                reads, gives = {"linear": (True, True), "up": (False, True)}.get(name.rpartition(".")[2], (True, False))
                if name.endswith("middle"):
                    reads = False
                outputs = inputs if gives else layout.units("hidden", part.out_features)
                read = inputs if reads else layout.units("hidden", part.in_features)
                called = f"head.crosses.{number}.{name}"
                found |= layout.of_linear(called, f"head cross {number} {name}", part, outputs, read)
        return found


def _cross(num_inputs: int, config: Config) -> nn.Module:
    if config.rank is None:
        return Cross(num_inputs)
    if config.num_experts == 1:
        return LowRankCross(num_inputs, config.rank)
    return MixedCross(num_inputs, config.rank, config.num_experts)
