"""Networks side by side, and gates that mix what they give. Legend: B examples, X inputs, E experts, H their width."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recsys_core.models.blocks import layout
from recsys_core.models.blocks.mlp import mlp


class Experts(nn.Module):
    """[B, X] → [B, E, H]: MLPs over the same inputs, each of which ends in a ReLU."""

    def __init__(self, num_inputs: int, num_experts: int, hidden: Sequence[int], dropout: float) -> None:
        """`hidden` are the widths of each; the last one is H."""
        super().__init__()
        *inner, last = hidden
        made = (nn.Sequential(mlp(num_inputs, inner, last, dropout), nn.ReLU()) for _ in range(num_experts))
        self.networks = nn.ModuleList(made)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the experts' outputs."""
        outputs: list[Tensor] = []
        for network in self.networks:
            outputs.append(network(inputs))  # noqa: PERF401 - TorchScript has no comprehension over modules
        return torch.stack(outputs, dim=1)


class Gate(nn.Module):
    """(inputs [B, X], experts [B, E, H]) → [B, H]: the experts' outputs by their shares, softmax(W inputs)."""

    def __init__(self, num_inputs: int, num_experts: int) -> None:
        """The numbers are X and E."""
        super().__init__()
        self.linear = nn.Linear(num_inputs, num_experts, bias=False)

    def forward(self, inputs: Tensor, experts: Tensor) -> Tensor:
        """Return the mixture."""
        shares = torch.softmax(self.linear(inputs), dim=1)
        return (shares.unsqueeze(2) * experts).sum(dim=1)


def of_experts(name: str, experts: nn.Module, inputs: layout.Axis) -> layout.Layout:
    """Return the layout of `Experts` that are called `name` in their model's state; `inputs` are what they read."""
    assert isinstance(experts, Experts)
    found: layout.Layout = {}
    for number, network in enumerate(experts.networks):
        assert isinstance(network, nn.Sequential)
        found |= layout.of_mlp(f"{name}.networks.{number}.0", network[0], inputs)
    return found


def of_gate(name: str, gate: nn.Module, inputs: layout.Axis) -> layout.Layout:
    """Return the layout of a `Gate` that is called `name` in its model's state; `inputs` are what it reads."""
    assert isinstance(gate, Gate)
    experts = layout.units("experts", gate.linear.out_features)
    return layout.of_linear(f"{name}.linear", name, gate.linear, experts, inputs)
