"""Logistic regression. Legend: B examples, P pooled widths, F dense fields."""

import torch
from torch import Tensor, nn

from recsys_core.features import TableSpec
from recsys_core.models import base
from recsys_core.models.blocks import fields, layout
from recsys_core.models.blocks.embeddings import Embeddings
from recsys_core.models.blocks.linear import Numbers, of_numbers
from recsys_core.models.lr import Config


class Head(nn.Module):
    """(pooled [B, P], dense [B, F], unused lists) → logits [B]."""

    def __init__(self, num_dense: int) -> None:
        """`num_dense` is F."""
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1))
        self.numbers = Numbers(num_dense)

    def forward(self, pooled: Tensor, dense: Tensor, unpooled: list[Tensor], lengths: list[Tensor]) -> Tensor:  # noqa: ARG002
        """Return the examples' logits."""
        return pooled.sum(dim=1) + self.numbers(dense) + self.bias


class Model(base.RankingModel):
    """Pooled features and dense fields of query and item alike."""

    def __init__(
        self,
        _config: Config,
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
        self.tables = Embeddings(tables, {"query": query.sparse, "item": item.sparse}, tables_device)
        self.tables.require_pooled("lr")
        self._dense = (*query.dense, *item.dense)
        self.head = Head(query.num_dense + item.num_dense)

    def layout(self) -> layout.Layout:
        """See `base.RetrievalModel.layout`."""
        return fields.of_bias("head.bias") | of_numbers("head.numbers", self._dense)
