"""The modules of two towers. Legend: B queries, M items, P pooled widths, F dense fields, D embedding."""

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchrec import KeyedJaggedTensor

from recsys_core.features import TableSpec
from recsys_core.models import base
from recsys_core.models.blocks import layout
from recsys_core.models.blocks.embeddings import Embeddings
from recsys_core.models.blocks.mlp import mlp
from recsys_core.models.two_tower import Config


class Tower(nn.Module):
    """(pooled [rows, P], dense [rows, F]) → [rows, D]."""

    def __init__(self, num_inputs: int, hidden: tuple[int, ...], config: Config) -> None:
        """`num_inputs` is P + F."""
        super().__init__()
        self.layers = mlp(num_inputs, hidden, config.output_dim, config.dropout)
        self.normalise: bool = config.similarity == "cosine"

    def forward(self, pooled: Tensor, dense: Tensor) -> Tensor:
        """Return the rows' embeddings."""
        output = self.layers(torch.cat([pooled, dense], dim=1))
        if self.normalise:
            output = functional.normalize(output, dim=1)
        return output


class Model(base.RetrievalModel):
    """Two towers; a table used by both (an item id and the history of item ids) is one table."""

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
            ValueError: a tower has no feature of ids, or one that is not pooled.
        """
        super().__init__()
        for feature in (*query.sparse, *item.sparse):
            if feature.pooling == "none":
                raise ValueError(
                    f"feature {feature.name!r}: pooling none, and two_tower reads pooled features; pool it (mean, sum, "
                    "max, tile)"
                )
        self.embedding_dim, self.similarity = config.output_dim, config.similarity
        self._dense = query.dense, item.dense
        self.tables = Embeddings(tables, {"query": query.sparse, "item": item.sparse}, tables_device, apart=True)
        self.query, self.item = (
            Tower(sum(pooled.widths) + inputs.num_dense, hidden, config)
            for pooled, inputs, hidden in zip(
                self.tables.pooled, (query, item), (config.query_hidden, config.item_hidden), strict=True
            )
        )

    def layout(self) -> layout.Layout:
        """See `base.RetrievalModel.layout`."""
        found: layout.Layout = {}
        for side, pooled, dense in zip(("query", "item"), self.tables.pooled, self._dense, strict=True):
            inputs = layout.pooled(pooled.features, pooled.widths) + layout.numbers(dense)
            found |= layout.of_mlp(f"{side}.layers", getattr(self, side).layers, inputs)
        return found

    def forward(
        self, sparse: KeyedJaggedTensor, query_dense_BF: Tensor, item_dense_MF: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See `base.RetrievalModel.forward`."""
        query_BP, item_MP = self.tables.by_side(sparse, (len(query_dense_BF), len(item_dense_MF)))
        return self.query(query_BP, query_dense_BF), self.item(item_MP, item_dense_MF)
