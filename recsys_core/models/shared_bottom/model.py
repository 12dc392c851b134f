"""The modules of a shared bottom. Legend: B examples, P pooled widths, F dense fields, T tasks."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from recsys_core.models.blocks import layout, tasks
from recsys_core.models.blocks.mlp import mlp
from recsys_core.models.shared_bottom import Config


class Head(nn.Module):
    """(pooled [B, P], dense [B, F], unused lists) → logits [B, T], in the order of `model.tasks`."""

    def __init__(self, num_inputs: int, config: Config) -> None:
        """`num_inputs` is P + F."""
        super().__init__()
        *hidden, width = config.hidden
        self.bottom = mlp(num_inputs, hidden, width, config.dropout)
        self.dropout = nn.Dropout(config.dropout)
        self.towers = tasks.towers(width, config)

    def forward(self, pooled: Tensor, dense: Tensor, unpooled: list[Tensor], lengths: list[Tensor]) -> Tensor:  # noqa: ARG002
        """Return the examples' logits."""
        shared = self.dropout(functional.relu(self.bottom(torch.cat([pooled, dense], dim=1))))
        outputs: list[Tensor] = []
        for tower in self.towers.values():
            outputs.append(tower(shared))  # noqa: PERF401 - TorchScript has no comprehension over modules
        return torch.cat(outputs, dim=1)


class Model(tasks.TaskModel[Config]):
    """See `TaskModel`."""

    def make_head(self, config: Config) -> nn.Module:
        """See the base class."""
        return Head(self.num_inputs, config)

    def layout(self) -> layout.Layout:
        """See `base.RetrievalModel.layout`."""
        head = self.head
        assert isinstance(head, Head)
        shared = layout.units("shared", head.bottom.layers[-1].out_features)
        return layout.of_mlp("head.bottom", head.bottom, self.inputs()) | tasks.of_towers(head.towers, shared)
