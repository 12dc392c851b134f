"""Shared bottom: one MLP over all features, and on it a tower of its own for each task.

Caruana 1997, Multitask Learning (section 2), the baseline of Ma et al. 2018, Modeling Task Relationships in Multi-task
Learning (section 3.1). Legend: B examples, P pooled widths, F dense fields, T tasks.
"""

from typing import Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from recsys_core.artifacts import ComponentConfig, Frozen
from recsys_core.features import TableSpec
from recsys_core.models import base
from recsys_core.models.blocks import layout
from recsys_core.models.blocks.embeddings import Embeddings
from recsys_core.models.blocks.mlp import mlp


class Tower(Frozen):
    """One task's part."""

    hidden: tuple[PositiveInt, ...] = Field(default=(32,), description="hidden widths of the task's tower")


class Config(ComponentConfig):
    """YAML section `model`."""

    kind: Literal["shared_bottom"] = "shared_bottom"
    hidden: tuple[PositiveInt, ...] = Field(
        default=(128, 64), min_length=1, description="widths of the MLP over all features, which all tasks share"
    )
    tasks: dict[str, Tower] = Field(min_length=2, description="each task's tower, by the names of ranking.tasks")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="of the shared MLP and the towers")


class Head(nn.Module):
    """(pooled [B, P], dense [B, F], unused lists) → logits [B, T], in the order of `model.tasks`."""

    def __init__(self, num_inputs: int, config: Config) -> None:
        """`num_inputs` is P + F."""
        super().__init__()
        *hidden, width = config.hidden
        self.bottom = mlp(num_inputs, hidden, width, config.dropout)
        self.dropout = nn.Dropout(config.dropout)
        towers = {name: mlp(width, tower.hidden, 1, config.dropout) for name, tower in config.tasks.items()}
        self.towers = nn.ModuleDict(towers)

    def forward(self, pooled: Tensor, dense: Tensor, unpooled: list[Tensor], lengths: list[Tensor]) -> Tensor:  # noqa: ARG002
        """Return the examples' logits."""
        shared = self.dropout(functional.relu(self.bottom(torch.cat([pooled, dense], dim=1))))
        outputs: list[Tensor] = []
        for tower in self.towers.values():
            outputs.append(tower(shared))  # noqa: PERF401 - TorchScript has no comprehension over modules
        return torch.cat(outputs, dim=1)


class Model(base.RankingModel):
    """Pooled features and dense fields of query and item alike, for several tasks."""

    def __init__(
        self,
        config: Config,
        tables: tuple[TableSpec, ...],
        query: base.TowerInputs,
        item: base.TowerInputs,
        *,
        tables_device: torch.device,
    ) -> None:
        """Build on the CPU; tables on `tables_device` (`meta` where they are to be sharded).

        Raises:
            ValueError: a sequence that is not pooled.
        """
        super().__init__()
        self.tasks = tuple(config.tasks)
        self.tables = Embeddings(tables, {"query": query.sparse, "item": item.sparse}, tables_device)
        self.tables.require_pooled("shared_bottom")
        self._dense = (*query.dense, *item.dense)
        self.head = Head(sum(self.tables.pooled_widths) + query.num_dense + item.num_dense, config)

    def layout(self) -> layout.Layout:
        """See `base.RetrievalModel.layout`."""
        head = self.head
        assert isinstance(head, Head)
        inputs = layout.pooled(self.tables.pooled_features, self.tables.pooled_widths) + layout.numbers(self._dense)
        found = layout.of_mlp("head.bottom", head.bottom, inputs)
        shared = layout.units("shared", head.bottom.layers[-1].out_features)
        for task, tower in head.towers.items():
            found |= layout.of_mlp(f"head.towers.{task}", tower, shared)
        return found
