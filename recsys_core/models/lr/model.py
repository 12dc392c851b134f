"""Logistic regression. Legend: B examples, P pooled widths, F dense fields."""

import torch
from torch import Tensor, nn

from recsys_core.models.blocks import fields, layout
from recsys_core.models.blocks.linear import Numbers, of_numbers
from recsys_core.models.blocks.shared import PooledModel
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


class Model(PooledModel[Config]):
    """See `PooledModel`."""

    def make_head(self, config: Config) -> nn.Module:  # noqa: ARG002 - it has no settings
        """See the base class."""
        return Head(self.num_dense)

    def layout(self) -> layout.Layout:
        """See `base.RetrievalModel.layout`."""
        return fields.of_bias("head.bias") | of_numbers("head.numbers", self._dense)
