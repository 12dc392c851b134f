"""Looks up the features of a batch: pooled ones side by side, unpooled ones as jagged rows.

A table with an unpooled feature lies in an `EmbeddingCollection`, and its pooled features are pooled here, so that a
click history and the item it is compared with share one table. All other tables lie in an `EmbeddingBagCollection`.
Tables only sum; a mean is divided here, by the rows' own lengths (TorchRec's row-wise sharding gets the mean of rows
with several ids wrong on CPUs). Legend: B examples, S ≥ B rows of the jagged tensor, K features, P pooled widths,
N ids of all rows together, D embedding.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchrec import (
    EmbeddingBagCollection,
    EmbeddingBagConfig,
    EmbeddingCollection,
    EmbeddingConfig,
    JaggedTensor,
    KeyedJaggedTensor,
    KeyedTensor,
    PoolingType,
)

from recsys_core.features import SparseFeature, TableSpec
from recsys_core.models.blocks.jagged import segment_sum


class Found(NamedTuple):
    """`pooled_BP` in the order of `pooled_features`; the lists in the order of `unpooled_features`."""

    pooled_BP: Tensor
    unpooled_ND: list[Tensor]
    lengths_B: list[Tensor]


class Embeddings(nn.Module):
    """The tables of a ranking model.

    Attributes:
        pooled_features: in the order of the columns of `Found.pooled_BP`.
        pooled_widths: how many columns each of them has.
        unpooled_features: in the order of `Found.unpooled_ND`.
        unpooled_widths: D of each of them.
        bags: the collection of the tables that are pooled only; None if there is none.
        rows: collections of the other tables; one for each width, as TorchRec wants it.
    """

    bags: EmbeddingBagCollection | None
    rows: nn.ModuleList

    def __init__(
        self, tables: tuple[TableSpec, ...], features: dict[str, tuple[SparseFeature, ...]], device: torch.device
    ) -> None:
        """`features` by side; those of side `query` are found in a batch under `query.<name>`.

        Raises:
            ValueError: no feature is pooled; every ranking model reads at least one.
        """
        super().__init__()
        keys = {feature.name: f"{side}.{feature.name}" for side, own in features.items() for feature in own}
        every = [feature for own in features.values() for feature in own]
        widths = {table.name: table.embedding_dim for table in tables}
        in_rows = {feature.table for feature in every if feature.pooling == "none"}

        def users(table: TableSpec) -> list[str]:
            return [keys[feature.name] for feature in every if feature.table == table.name]

        in_bags = [table for table in tables if table.name not in in_rows]
        self.bags = (
            EmbeddingBagCollection(
                device=device,
                tables=[
                    EmbeddingBagConfig(
                        name=table.name,
                        num_embeddings=table.num_embeddings,
                        embedding_dim=table.embedding_dim,
                        feature_names=users(table),
                        pooling=PoolingType.SUM,
                    )
                    for table in in_bags
                ],
            )
            if in_bags
            else None
        )
        self.rows = nn.ModuleList(
            EmbeddingCollection(
                device=device,
                tables=[
                    EmbeddingConfig(
                        name=table.name,
                        num_embeddings=table.num_embeddings,
                        embedding_dim=width,
                        feature_names=users(table),
                    )
                    for table in tables
                    if table.name in in_rows and table.embedding_dim == width
                ],
            )
            for width in sorted({widths[name] for name in in_rows})
        )
        # The order in which a collection of bags gives its features, so that nothing has to be moved.
        bagged = [f for table in in_bags for f in every if f.table == table.name]
        summed = [f for f in every if f.table in in_rows and f.pooling != "none"]
        self.pooled_features = (*bagged, *summed)
        if not self.pooled_features:
            raise ValueError("features: none of ids that is pooled, and a model needs one; name a feature of kind id")
        self.pooled_widths = [widths[feature.table] for feature in self.pooled_features]
        self.unpooled_features = tuple(feature for feature in every if feature.pooling == "none")
        self.unpooled_widths = [widths[feature.table] for feature in self.unpooled_features]
        self._keys = keys
        self._bagged = [keys[feature.name] for feature in bagged]
        self._summed = [keys[feature.name] for feature in summed]

    def forward(self, sparse: KeyedJaggedTensor, num_examples: int) -> Found:
        """Look up the first `num_examples` rows of `sparse`, which may have empty ones after them."""
        bags = self.bags(sparse) if self.bags is not None else None
        rows: dict[str, JaggedTensor] = {}
        for found in [collection(sparse) for collection in self.rows]:
            rows |= {key: found[key] for key in found.keys()}  # noqa: SIM118 - it may be torchrec's awaitable
        pooled: list[Tensor] = []
        if bags is not None:
            same = bags.keys() == self._bagged
            values_SP = bags.values() if same else KeyedTensor.regroup([bags], [self._bagged])[0]
            pooled.append(_first(values_SP, num_examples))
        pooled += [segment_sum(rows[key].values(), _first(rows[key].lengths(), num_examples)) for key in self._summed]
        pooled_BP = torch.cat(pooled, dim=1) if len(pooled) > 1 else pooled[0]
        unpooled = [rows[self._keys[feature.name]] for feature in self.unpooled_features]
        return Found(
            self._averaged(pooled_BP, sparse),
            [jagged.values() for jagged in unpooled],
            [_first(jagged.lengths(), num_examples) for jagged in unpooled],
        )

    def _averaged(self, summed_BP: Tensor, sparse: KeyedJaggedTensor) -> Tensor:
        """Divide the columns of the features that pool by mean by how many ids each row has."""
        means = [feature.pooling == "mean" for feature in self.pooled_features]
        keys = sparse.keys()
        lengths_KS = sparse.lengths().view(len(keys), -1)[
            [keys.index(self._keys[f.name]) for f in self.pooled_features]
        ]
        counts_KB = _first(lengths_KS.T, len(summed_BP)).T.clamp(min=1)
        counts_KB[[not mean for mean in means]] = 1
        # A mean of one is a sum. To look is free only where the lengths lie in this process's memory.
        if counts_KB.device.type == "cpu" and (counts_KB == 1).all():
            return summed_BP
        widths = torch.tensor(self.pooled_widths, device=summed_BP.device)
        return summed_BP * counts_KB.T.to(summed_BP.dtype).reciprocal().repeat_interleave(widths, dim=1)


def _first(rows: Tensor, count: int) -> Tensor:
    """Return the first `count` rows; the gradient of a slice that is everything would be copied for nothing."""
    return rows if len(rows) == count else rows[:count]
