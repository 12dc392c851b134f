"""DeepFM's modules. Legend: B examples, P pooled widths, F dense fields, K vectors, D their width."""

import torch
from torch import Tensor, nn

from recsys_core.features import TableSpec
from recsys_core.models import base
from recsys_core.models.blocks import fields, layout
from recsys_core.models.blocks.embeddings import Embeddings
from recsys_core.models.blocks.factorization import pairs_sum, require_factors, weights_and_factors
from recsys_core.models.blocks.mlp import mlp
from recsys_core.models.deepfm import Config


class Head(nn.Module):
    """(pooled [B, P], dense [B, F], unused lists) → logits [B]."""

    def __init__(self, inputs: fields.Fields, config: Config) -> None:
        """`inputs` make [B, K, D] of what is read."""
        super().__init__()
        self.fields = inputs
        # Its last layer's bias is that of the whole.
        self.deep = mlp(inputs.num_vectors * (inputs.dim - 1), config.hidden, 1, config.dropout)

    def forward(self, pooled: Tensor, dense: Tensor, unpooled: list[Tensor], lengths: list[Tensor]) -> Tensor:  # noqa: ARG002
        """Return the examples' logits."""
        linear_B, factors_BKD = weights_and_factors(self.fields(pooled, dense))
        return linear_B + pairs_sum(factors_BKD) + self.deep(factors_BKD.flatten(1)).squeeze(1)


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
            ValueError: embeddings of different widths or without factors, or a sequence that is not pooled.
        """
        super().__init__()
        self.tables = Embeddings(tables, {"query": query.sparse, "item": item.sparse}, tables_device)
        self.tables.require_pooled("deepfm")
        self._dense = (*query.dense, *item.dense)
        inputs = fields.Fields("deepfm", self.tables, self._dense)
        require_factors("deepfm", inputs.dim)
        self.head = Head(inputs, config)

    def layout(self) -> layout.Layout:
        """See `base.RetrievalModel.layout`."""
        head = self.head
        assert isinstance(head, Head)
        factors = fields.axis(self.tables, self._dense, head.fields.dim - 1)
        return fields.of_fields("head.fields", head.fields, self._dense) | layout.of_mlp(
            "head.deep", head.deep, factors
        )
