"""ESMM's modules. Legend: B examples, P pooled widths, F dense fields, T tasks."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from recsys_core.models.blocks import layout, tasks
from recsys_core.models.esmm import Config


class Head(nn.Module):
    """(pooled [B, P], dense [B, F], unused lists) → logits [B, T], in the order of `model.tasks`."""

    def __init__(self, num_inputs: int, config: Config) -> None:
        """`num_inputs` is P + F."""
        super().__init__()
        self.towers = tasks.towers(num_inputs, config)

    def forward(self, pooled: Tensor, dense: Tensor, unpooled: list[Tensor], lengths: list[Tensor]) -> Tensor:  # noqa: ARG002
        """Return the examples' logits."""
        inputs = torch.cat([pooled, dense], dim=1)
        outputs: list[Tensor] = []
        for tower in self.towers.values():
            outputs.append(tower(inputs))  # noqa: PERF401 - TorchScript has no comprehension over modules
        return torch.cat(outputs, dim=1)


class Model(tasks.TaskModel[Config]):
    """See `TaskModel`; what is shared are the embeddings (section 2.2, the modelling of pCVR and of pCTR)."""

    learns_over_all_rows: ClassVar[bool] = True

    def make_head(self, config: Config) -> nn.Module:
        """See the base class."""
        return Head(self.num_inputs, config)

    def layout(self) -> layout.Layout:
        """See `base.RetrievalModel.layout`."""
        return tasks.of_towers(self.head.get_submodule("towers"), self.inputs())
