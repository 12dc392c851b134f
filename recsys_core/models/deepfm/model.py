"""DeepFM's modules. Legend: B examples, P pooled widths, F dense fields, K vectors, D their width."""

from torch import Tensor, nn

from recsys_core.models.blocks import fields, layout
from recsys_core.models.blocks.factorization import pairs_sum, require_factors, weights_and_factors
from recsys_core.models.blocks.mlp import mlp
from recsys_core.models.blocks.shared import PooledModel
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


class Model(PooledModel[Config]):
    """See `PooledModel`."""

    def make_head(self, config: Config) -> nn.Module:
        """See the base class.

        Raises:
            ValueError: embeddings of different widths or without factors.
        """
        inputs = fields.Fields(config.kind, self.tables, self._dense)
        require_factors(config.kind, inputs.dim)
        return Head(inputs, config)

    def layout(self) -> layout.Layout:
        """See `base.RetrievalModel.layout`."""
        head = self.head
        assert isinstance(head, Head)
        factors = fields.axis(self.tables, self._dense, head.fields.dim - 1)
        return fields.of_fields("head.fields", head.fields, self._dense) | layout.of_mlp(
            "head.deep", head.deep, factors
        )
