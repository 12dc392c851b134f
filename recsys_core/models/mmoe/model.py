"""MMoE's modules. Legend: B examples, P pooled widths, F dense fields, T tasks."""

import torch
from torch import Tensor, nn

from recsys_core.models.blocks import layout, tasks
from recsys_core.models.blocks.experts import Experts, Gate, of_experts, of_gate
from recsys_core.models.mmoe import Config


class Head(nn.Module):
    """(pooled [B, P], dense [B, F], unused lists) → logits [B, T], in the order of `model.tasks`."""

    def __init__(self, num_inputs: int, config: Config) -> None:
        """`num_inputs` is P + F."""
        super().__init__()
        self.experts = Experts(num_inputs, config.num_experts, config.hidden, config.dropout)
        self.dropout = nn.Dropout(config.dropout)
        self.gates = nn.ModuleDict({name: Gate(num_inputs, config.num_experts) for name in config.tasks})
        self.towers = tasks.towers(config.hidden[-1], config)

    def forward(self, pooled: Tensor, dense: Tensor, unpooled: list[Tensor], lengths: list[Tensor]) -> Tensor:  # noqa: ARG002
        """Return the examples' logits."""
        inputs = torch.cat([pooled, dense], dim=1)
        experts = self.dropout(self.experts(inputs))
        outputs: list[Tensor] = []
        for gate, tower in zip(self.gates.values(), self.towers.values()):  # noqa: B905 - TorchScript has no `strict`
            outputs.append(tower(gate(inputs, experts)))
        return torch.cat(outputs, dim=1)


class Model(tasks.TaskModel[Config]):
    """See `TaskModel`."""

    def make_head(self, config: Config) -> nn.Module:
        """See the base class."""
        self._width = config.hidden[-1]
        return Head(self.num_inputs, config)

    def layout(self) -> layout.Layout:
        """See `base.RetrievalModel.layout`."""
        head = self.head
        assert isinstance(head, Head)
        found = of_experts("head.experts", head.experts, self.inputs())
        for task, gate in head.gates.items():
            found |= of_gate(f"head.gates.{task}", gate, self.inputs())
        return found | tasks.of_towers(head.towers, layout.units("mixture", self._width))
