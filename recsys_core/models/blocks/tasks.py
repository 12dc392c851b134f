"""What models of several tasks share. Legend: B examples, P pooled widths, F dense fields, T tasks."""

from typing import TypeVar

import torch
from torch import nn

from recsys_core.features import TableSpec
from recsys_core.models import base
from recsys_core.models.blocks import layout
from recsys_core.models.blocks.mlp import mlp
from recsys_core.models.blocks.sections import Tasks
from recsys_core.models.blocks.shared import PooledModel

TaskSettings = TypeVar("TaskSettings", bound=Tasks)


class TaskModel(PooledModel[TaskSettings]):
    """A `PooledModel` whose head gives logits [B, T], in the order of `model.tasks`."""

    def __init__(
        self,
        config: TaskSettings,
        tables: tuple[TableSpec, ...],
        query: base.TowerInputs,
        item: base.TowerInputs,
        *,
        tables_device: torch.device,
    ) -> None:
        """See the base class."""
        super().__init__(config, tables, query, item, tables_device=tables_device)
        self.tasks = tuple(config.tasks)


def towers(num_inputs: int, config: Tasks) -> nn.ModuleDict:
    """Return each task's tower, [B, `num_inputs`] → [B, 1], in the order of the tasks."""
    return nn.ModuleDict(
        {name: mlp(num_inputs, tower.hidden, 1, config.dropout) for name, tower in config.tasks.items()}
    )


def of_towers(built: nn.Module, inputs: layout.Axis) -> layout.Layout:
    """Return the layout of the `towers` of a head, each of which reads `inputs` of its own."""
    found: layout.Layout = {}
    for task, tower in built.named_children():
        found |= layout.of_mlp(f"head.towers.{task}", tower, inputs)
    return found
