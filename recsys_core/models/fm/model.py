"""A factorisation machine. Legend: B examples, P pooled widths, F dense fields, K vectors, D their width."""

import torch
from torch import Tensor, nn

from recsys_core.models.blocks import fields, layout
from recsys_core.models.blocks.factorization import pairs_sum, require_factors, weights_and_factors
from recsys_core.models.blocks.shared import PooledModel
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


class Model(PooledModel[Config]):
    """See `PooledModel`."""

    def make_head(self, config: Config) -> nn.Module:
        """See the base class.

        Raises:
            ValueError: embeddings of different widths or without factors.
        """
        inputs = fields.Fields(config.kind, self.tables, self._dense)
        require_factors(config.kind, inputs.dim)
        return Head(inputs)

    def layout(self) -> layout.Layout:
        """See `base.RetrievalModel.layout`."""
        head = self.head
        assert isinstance(head, Head)
        return fields.of_bias("head.bias") | fields.of_fields("head.fields", head.fields, self._dense)
