"""PLE's modules. Legend: B examples, P pooled widths, F dense fields, T tasks, X inputs, E experts, H their width."""

from typing import Final

import torch
from torch import Tensor, nn

from recsys_core.models.blocks import layout, tasks
from recsys_core.models.blocks.experts import Experts, Gate, of_experts, of_gate
from recsys_core.models.ple import Config
from recsys_core.models.ple import Layer as LayerConfig


class Own(nn.Module):
    """(inputs [B, X], shared experts [B, E, H]) → the mixture of own and shared experts [B, H], and the own ones."""

    def __init__(self, num_inputs: int, config: LayerConfig, dropout: float) -> None:
        """`num_inputs` is X."""
        super().__init__()
        self.experts = Experts(num_inputs, config.num_own, config.hidden, dropout)
        self.gate = Gate(num_inputs, config.num_own + config.num_shared)

    def forward(self, inputs: Tensor, shared: Tensor) -> tuple[Tensor, Tensor]:
        """Return both."""
        own = self.experts(inputs)
        return self.gate(inputs, torch.cat([own, shared], dim=1)), own


class Layer(nn.Module):
    """What each task [B, X] and all together [B, X] have made so far → the same, [B, H] each.

    The last layer makes nothing for all together: what it returns there is what it was given.
    """

    is_last: Final[bool]  # TorchScript compiles the branch that is taken alone

    def __init__(
        self, num_inputs: int, names: list[str], config: LayerConfig, dropout: float, *, is_last: bool
    ) -> None:
        """`num_inputs` is X; `names` are the tasks'."""
        super().__init__()
        self.shared = Experts(num_inputs, config.num_shared, config.hidden, dropout)
        self.tasks = nn.ModuleDict({name: Own(num_inputs, config, dropout) for name in names})
        num_experts = config.num_shared + len(names) * config.num_own
        self.is_last = is_last
        self.gate = nn.Identity() if is_last else Gate(num_inputs, num_experts)
        self.dropout = nn.Dropout(dropout)

    def forward(self, inputs: list[Tensor], together: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return what has been made by now."""
        shared = self.shared(together)
        outputs: list[Tensor] = []
        experts = [shared]
        for i, task in enumerate(self.tasks.values()):
            mixed, own = task(inputs[i], shared)
            outputs.append(self.dropout(mixed))
            experts.append(own)
        if self.is_last:
            return outputs, together
        else:  # noqa: RET505 - unless it is no `else`
            return outputs, self.dropout(self.gate(together, torch.cat(experts, dim=1)))


class Head(nn.Module):
    """(pooled [B, P], dense [B, F], unused lists) → logits [B, T], in the order of `model.tasks`."""

    def __init__(self, num_inputs: int, config: Config) -> None:
        """`num_inputs` is P + F."""
        super().__init__()
        names, layers, last = list(config.tasks), list[Layer](), config.layers[-1]
        self.num_tasks: int = len(names)
        for layer in config.layers:
            layers.append(Layer(num_inputs, names, layer, config.dropout, is_last=layer is last))
            num_inputs = layer.hidden[-1]
        self.layers = nn.ModuleList(layers)
        self.towers = tasks.towers(num_inputs, config)

    def forward(self, pooled: Tensor, dense: Tensor, unpooled: list[Tensor], lengths: list[Tensor]) -> Tensor:  # noqa: ARG002
        """Return the examples' logits."""
        together = torch.cat([pooled, dense], dim=1)
        made = [together for _ in range(self.num_tasks)]
        for layer in self.layers:
            made, together = layer(made, together)
        outputs: list[Tensor] = []
        for i, tower in enumerate(self.towers.values()):
            outputs.append(tower(made[i]))
        return torch.cat(outputs, dim=1)


class Model(tasks.TaskModel[Config]):
    """See `TaskModel`."""

    def make_head(self, config: Config) -> nn.Module:
        """See the base class."""
        self._widths = [layer.hidden[-1] for layer in config.layers]
        return Head(self.num_inputs, config)

    def layout(self) -> layout.Layout:
        """See `base.RetrievalModel.layout`."""
        head = self.head
        assert isinstance(head, Head)
        found: layout.Layout = {}
        inputs = self.inputs()
        for number, (layer, width) in enumerate(zip(head.layers, self._widths, strict=True)):
            assert isinstance(layer, Layer)
            name = f"head.layers.{number}"
            found |= of_experts(f"{name}.shared", layer.shared, inputs)
            if not layer.is_last:
                found |= of_gate(f"{name}.gate", layer.gate, inputs)
            for task, own in layer.tasks.items():
                assert isinstance(own, Own)
                found |= of_experts(f"{name}.tasks.{task}.experts", own.experts, inputs)
                found |= of_gate(f"{name}.tasks.{task}.gate", own.gate, inputs)
            inputs = layout.units("mixture", width)
        return found | tasks.of_towers(head.towers, inputs)
