"""DBMTL's modules. Legend: B examples, P pooled widths, F dense fields, T tasks, S shared, H a last hidden layer."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from recsys_core.models.blocks import layout, tasks
from recsys_core.models.blocks.mlp import mlp
from recsys_core.models.dbmtl import Config, Node


def _layers(num_inputs: int, hidden: Sequence[int], dropout: float) -> nn.Sequential:
    *inner, last = hidden
    return nn.Sequential(mlp(num_inputs, inner, last, dropout), nn.ReLU(), nn.Dropout(dropout))


class Task(nn.Module):
    """(shared [B, S], [B, H] of each earlier task) → the task's last hidden layer [B, H], and its logits [B, 1]."""

    places: list[int]

    def __init__(self, num_shared: int, places: list[int], widths: list[int], config: Node, dropout: float) -> None:
        """`places` are those of the tasks that it reads, `widths` their Hs."""
        super().__init__()
        self.places = places
        self.own = _layers(num_shared, config.hidden, dropout)
        read = config.hidden[-1] + sum(widths)
        self.relation = _layers(read, config.relation, dropout) if places else nn.Identity()
        self.output = nn.Linear(config.relation[-1] if places else config.hidden[-1], 1)

    def forward(self, shared: Tensor, before: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Return both."""
        parts = [self.own(shared)]
        for place in self.places:
            parts.append(before[place])  # noqa: PERF401 - TorchScript grows lists so
        hidden = self.relation(torch.cat(parts, dim=1))
        return hidden, self.output(hidden)


class Head(nn.Module):
    """(pooled [B, P], dense [B, F], unused lists) → logits [B, T], in the order of `model.tasks`."""

    def __init__(self, num_inputs: int, config: Config) -> None:
        """`num_inputs` is P + F."""
        super().__init__()
        *hidden, width = config.hidden
        self.bottom = mlp(num_inputs, hidden, width, config.dropout)
        self.dropout = nn.Dropout(config.dropout)
        names = list(config.tasks)
        made: dict[str, Task] = {}
        for name, node in config.tasks.items():
            widths = [made[other].output.in_features for other in node.reads]
            made[name] = Task(width, [names.index(other) for other in node.reads], widths, node, config.dropout)
        self.tasks = nn.ModuleDict(made)

    def forward(self, pooled: Tensor, dense: Tensor, unpooled: list[Tensor], lengths: list[Tensor]) -> Tensor:  # noqa: ARG002
        """Return the examples' logits."""
        shared = self.dropout(functional.relu(self.bottom(torch.cat([pooled, dense], dim=1))))
        made: list[Tensor] = []
        outputs: list[Tensor] = []
        for task in self.tasks.values():
            hidden, logits = task(shared, made)
            made.append(hidden)
            outputs.append(logits)
        return torch.cat(outputs, dim=1)


class Model(tasks.TaskModel[Config]):
    """See `TaskModel`."""

    def make_head(self, config: Config) -> nn.Module:
        """See the base class."""
        self._config = config
        return Head(self.num_inputs, config)

    def layout(self) -> layout.Layout:
        """See `base.RetrievalModel.layout`."""
        head = self.head
        assert isinstance(head, Head)
        found = layout.of_mlp("head.bottom", head.bottom, self.inputs())
        shared = layout.units("shared", head.bottom.layers[-1].out_features)
        hidden: dict[str, layout.Axis] = {}
        for name, node in self._config.tasks.items():
            task, place = head.tasks[name], f"head.tasks.{name}"
            assert isinstance(task, Task)
            found |= layout.of_mlp(f"{place}.own.0", task.own[0], shared)
            if isinstance(task.relation, nn.Sequential):
                read = layout.units("own", node.hidden[-1])
                for other in node.reads:
                    read += hidden[other]
                found |= layout.of_mlp(f"{place}.relation.0", task.relation[0], read)
            hidden[name] = layout.units(name, task.output.in_features)
            output = layout.units("output", 1)
            found |= layout.of_linear(f"{place}.output", f"{place} output", task.output, output, hidden[name])
        return found
