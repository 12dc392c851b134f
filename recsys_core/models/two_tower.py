"""DSSM: a query tower and an item tower that meet in one dot product.

Huang et al. 2013, Learning Deep Structured Semantic Models (section 3); for recommendation, Covington et al. 2016 and
Yi et al. 2019. Legend: B queries, M items, S rows of the jagged tensor, P pooled widths, F dense fields, D embedding.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor, KeyedTensor, PoolingType

from recsys_core.artifacts import Frozen
from recsys_core.features import TableSpec
from recsys_core.models import base
from recsys_core.models.blocks.embeddings import DTYPES, as_declared
from recsys_core.models.blocks.mlp import mlp


class Config(Frozen):
    """YAML section `model`."""

    kind: Literal["two_tower"] = "two_tower"
    output_dim: int = Field(default=64, ge=1, description="width D of the embeddings that meet")
    query_hidden: tuple[int, ...] = Field(default=(128,), description="hidden widths of the query tower")
    item_hidden: tuple[int, ...] = Field(default=(128,), description="hidden widths of the item tower")
    similarity: Literal["cosine", "inner_product"] = "cosine"
    dropout: float = Field(default=0.0, ge=0, lt=1)


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
    """Two towers; a table used by both (an item id and the history of item ids) is one table.

    Tables only sum; a mean is divided here, by the rows' own lengths. TorchRec's row-wise sharding gets the mean of
    rows with several ids wrong on CPUs, and this lets features of one table pool differently.
    """

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
            ValueError: a tower has no sparse feature, or one that is neither summed nor averaged.
        """
        super().__init__()
        for feature in (*query.sparse, *item.sparse):
            if feature.pooling not in ("mean", "sum") or feature.weighted:
                what = "weighted" if feature.weighted else f"pooling {feature.pooling}"
                raise ValueError(f"feature {feature.name!r}: {what}, and two_tower pools by plain mean or sum only")
        self.embedding_dim, self.similarity = config.output_dim, config.similarity
        widths = {table.name: table.embedding_dim for table in tables}
        sides = {"query": query, "item": item}
        self.tables = EmbeddingBagCollection(
            device=tables_device, tables=[_table_config(table, sides) for table in tables]
        )
        as_declared(self.tables, tables)
        self._keys = {side: [f"{side}.{feature.name}" for feature in inputs.sparse] for side, inputs in sides.items()}
        self._widths = {
            side: torch.tensor([widths[feature.table] for feature in inputs.sparse]) for side, inputs in sides.items()
        }
        self._means = {side: [f"{side}.{f.name}" for f in i.sparse if f.pooling == "mean"] for side, i in sides.items()}
        towers: list[Tower] = []
        for (side, inputs), hidden in zip(sides.items(), (config.query_hidden, config.item_hidden), strict=True):
            if not inputs.sparse:
                raise ValueError(
                    f"features.{side}: no feature of ids, and a tower needs one; name a feature of kind id"
                )
            towers.append(Tower(int(self._widths[side].sum()) + inputs.num_dense, hidden, config))
        self.query, self.item = towers

    def forward(
        self, sparse: KeyedJaggedTensor, query_dense_BF: Tensor, item_dense_MF: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See `base.RetrievalModel.forward`."""
        summed = self.tables(sparse)
        query_SP, item_SP = KeyedTensor.regroup([summed], [self._keys["query"], self._keys["item"]])
        query_BP = self._averaged(query_SP[: len(query_dense_BF)].float(), sparse, "query")
        item_MP = self._averaged(item_SP[: len(item_dense_MF)].float(), sparse, "item")
        return self.query(query_BP, query_dense_BF), self.item(item_MP, item_dense_MF)

    def _averaged(self, summed_BP: Tensor, sparse: KeyedJaggedTensor, side: str) -> Tensor:
        """Divide the columns of the features that pool by mean by how many ids each row has."""
        if not self._means[side]:
            return summed_BP
        lengths_KS = dict(zip(sparse.keys(), sparse.lengths().view(len(sparse.keys()), -1), strict=True))
        ones_B = summed_BP.new_ones(len(summed_BP))
        share_BK = torch.stack(
            [
                lengths_KS[key][: len(summed_BP)].clamp(min=1).reciprocal() if key in self._means[side] else ones_B
                for key in self._keys[side]
            ],
            dim=1,
        )
        return summed_BP * share_BK.repeat_interleave(self._widths[side].to(summed_BP.device), dim=1)


def _table_config(table: TableSpec, sides: dict[str, base.TowerInputs]) -> EmbeddingBagConfig:
    return EmbeddingBagConfig(
        name=table.name,
        num_embeddings=table.num_embeddings,
        embedding_dim=table.embedding_dim,
        feature_names=[
            f"{side}.{f.name}" for side, inputs in sides.items() for f in inputs.sparse if f.table == table.name
        ],
        pooling=PoolingType.SUM,
        data_type=DTYPES[table.dtype],
    )
