"""A factorisation machine. Legend: B examples, P pooled widths, F dense fields, K vectors, D their width."""

import torch
from torch import Tensor, nn

from recsys_core.features import TableSpec
from recsys_core.models import base
from recsys_core.models.blocks import fields, layout
from recsys_core.models.blocks.embeddings import Embeddings
from recsys_core.models.blocks.factorization import pairs_sum, require_factors, weights_and_factors
from recsys_core.models.fm import Config


class Head(nn.Module):
    """(pooled [B, P], dense [B, F], unused lists) → logits [B]."""

    def __init__(self, inputs: fields.Fields) -> None:
        """`inputs` make [B, K, D] of what is read."""
        super().__init__()
        self.fields = inputs
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, pooled: Tensor, dense: Tensor, unpooled: list[Tensor], lengths: list[Tensor]) -> Tensor:  # noqa: ARG002
        """Return the examples' logits."""
        linear_B, factors_BKD = weights_and_factors(self.fields(pooled, dense))
        return linear_B + pairs_sum(factors_BKD) + self.bias


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
            ValueError: embeddings of different widths or without factors, or a sequence that is not pooled.
        """
        super().__init__()
        self.tables = Embeddings(tables, {"query": query.sparse, "item": item.sparse}, tables_device)
        self.tables.require_pooled("fm")
        self._dense = (*query.dense, *item.dense)
        inputs = fields.Fields("fm", self.tables, self._dense)
        require_factors("fm", inputs.dim)
        self.head = Head(inputs)

    def layout(self) -> layout.Layout:
        """See `base.RetrievalModel.layout`."""
        head = self.head
        assert isinstance(head, Head)
        return fields.of_bias("head.bias") | fields.of_fields("head.fields", head.fields, self._dense)
