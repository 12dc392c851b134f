"""The modules of Wide & Deep. Legend: B examples, P pooled widths, F dense fields."""

import torch
from torch import Tensor, nn

from recsys_core.models.blocks import layout
from recsys_core.models.blocks.factorization import require_factors
from recsys_core.models.blocks.linear import Numbers, of_numbers
from recsys_core.models.blocks.mlp import mlp
from recsys_core.models.blocks.shared import PooledModel
from recsys_core.models.blocks.towers import columns_of, refuse_unknown
from recsys_core.models.wide_and_deep import Config


class Head(nn.Module):
    """(pooled [B, P], dense [B, F], unused lists) → logits [B]."""

    wide_columns: Tensor
    deep_columns: Tensor

    def __init__(self, wide: list[int], deep: list[int], num_dense: int, config: Config) -> None:
        """`wide` and `deep` are the columns of [B, P] that each part reads."""
        super().__init__()
        self.register_buffer("wide_columns", torch.tensor(wide), persistent=False)
        self.register_buffer("deep_columns", torch.tensor(deep), persistent=False)
        self.numbers = Numbers(num_dense)
        # Its last layer's bias is that of the whole.
        self.deep = mlp(len(deep) + num_dense, config.hidden, 1, config.dropout)

    def forward(self, pooled: Tensor, dense: Tensor, unpooled: list[Tensor], lengths: list[Tensor]) -> Tensor:  # noqa: ARG002
        """Return the examples' logits."""
        wide = pooled.index_select(1, self.wide_columns).sum(dim=1) + self.numbers(dense)
        deep = torch.cat([pooled.index_select(1, self.deep_columns), dense], dim=1)
        return wide + self.deep(deep).squeeze(1)


class Model(PooledModel[Config]):
    """See `PooledModel`."""

    def make_head(self, config: Config) -> nn.Module:
        """See the base class.

        Raises:
            ValueError: `wide_only` names a feature that is not there or leaves none, or embeddings of one number.
        """
        columns = columns_of(self.tables)
        refuse_unknown("model.wide_only", config.wide_only, columns)
        wide = [column for name in config.wide_only for column in columns[name]]
        deep: list[int] = []
        self._read = [
            (feature, max(feature.tile_length, 1))
            for feature in self.tables.pooled_features
            if feature.name not in config.wide_only
        ]
        if not self._read:
            raise ValueError("model.wide_only: names every feature, so the deep part reads none; leave one out")
        for feature, repeats in self._read:
            own = columns[feature.name]
            width = len(own) // repeats
            require_factors(config.kind, width)
            wide += own[::width]
            deep += [column for number, column in enumerate(own) if number % width]
        self._columns = columns
        return Head(wide, deep, self.num_dense, config)

    def layout(self) -> layout.Layout:
        """See `base.RetrievalModel.layout`."""
        head = self.head
        assert isinstance(head, Head)
        read = tuple(
            layout.of_feature(feature.name, len(self._columns[feature.name]) // repeats - 1, repeats)
            for feature, repeats in self._read
        )
        deep = layout.of_mlp("head.deep", head.deep, read + layout.numbers(self._dense))
        return of_numbers("head.numbers", self._dense) | deep
