"""The modules of a shared bottom. Legend: B examples, P pooled widths, F dense fields, T tasks."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from recsys_core.features import TableSpec
from recsys_core.models import base
from recsys_core.models.blocks import layout
from recsys_core.models.blocks.embeddings import Embeddings
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
