"""The modules of deep towers side by side. Legend: B examples, P pooled widths, F dense fields."""

import torch
from torch import Tensor, nn

from recsys_core.features import TableSpec
from recsys_core.models import base
from recsys_core.models.blocks import layout
from recsys_core.models.blocks.embeddings import Embeddings
from recsys_core.models.blocks.mlp import mlp
from recsys_core.models.blocks.towers import Deep, columns_of, of_towers, towers
from recsys_core.models.multi_tower import Config


class Head(nn.Module):
    """(pooled [B, P], dense [B, F], unused lists) → logits [B]."""

    def __init__(self, deep: list[Deep], num_outputs: int, config: Config) -> None:
        """`num_outputs` is the sum of what the towers give."""
        super().__init__()
        self.deep = nn.ModuleList(deep)
        self.top = mlp(num_outputs, config.hidden, 1, config.dropout)

    def forward(self, pooled: Tensor, dense: Tensor, unpooled: list[Tensor], lengths: list[Tensor]) -> Tensor:  # noqa: ARG002
        """Return the examples' logits."""
        inputs = torch.cat([pooled, dense], dim=1)
        outputs: list[Tensor] = []
        for tower in self.deep:
            outputs.append(tower(inputs))  # noqa: PERF401 - TorchScript has no comprehension over modules
        return self.top(torch.cat(outputs, dim=1)).squeeze(1)


class Model(base.RankingModel):
    """Pooled features and dense fields of query and item alike."""

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
            ValueError: a sequence that is not pooled, or a tower that names a feature that is not there.
        """
        super().__init__()
        self.tables = Embeddings(tables, {"query": query.sparse, "item": item.sparse}, tables_device)
        self.tables.require_pooled("multi_tower")
        deep = towers(config.towers, columns_of(self.tables), query.num_dense + item.num_dense, config.dropout)
        self.head = Head(deep, sum(tower.hidden[-1] for tower in config.towers), config)
        self._towers, self._dense = config.towers, (*query.dense, *item.dense)

    def layout(self) -> layout.Layout:
        """See `base.RetrievalModel.layout`."""
        head = self.head
        assert isinstance(head, Head)
        found, outputs = of_towers("head.deep", self._towers, head.deep, self.tables, self._dense)
        return found | layout.of_mlp("head.top", head.top, outputs)
