"""xDeepFM's modules.

Legend: B examples, P pooled widths, F dense fields, K vectors, D their width, H a layer's vectors.
"""

import torch
from torch import Tensor, nn

from recsys_core.models.blocks import fields, layout
from recsys_core.models.blocks.factorization import require_factors, weights_and_factors
from recsys_core.models.blocks.mlp import mlp
from recsys_core.models.blocks.shared import PooledModel
from recsys_core.models.xdeepfm import Config


class Interaction(nn.Module):
    """One layer: ([B, H, D], first [B, K, D]) → [B, H', D]; each vector is a weighted sum of products (equation 6).

    Weighted are all H·K elementwise products of a vector of the layer before and one of the first; as in the paper's
    experiments nothing activates the sums.
    """

    def __init__(self, num_before: int, num_first: int, num_vectors: int) -> None:
        """The numbers are H, K and H'."""
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_vectors, num_before * num_first))
        nn.init.xavier_uniform_(self.weight)

    def forward(self, before: Tensor, first: Tensor) -> Tensor:
        """Return the layer's vectors."""
        products = before.unsqueeze(2) * first.unsqueeze(1)
        return torch.matmul(self.weight, products.flatten(1, 2))


class Head(nn.Module):
    """(pooled [B, P], dense [B, F], unused lists) → logits [B]."""

    def __init__(self, inputs: fields.Fields, config: Config) -> None:
        """`inputs` make [B, K, D] of what is read."""
        super().__init__()
        self.fields = inputs
        num_vectors, num_before = inputs.num_vectors, inputs.num_vectors
        layers: list[Interaction] = []
        for count in config.interactions:
            layers.append(Interaction(num_before, num_vectors, count))
            num_before = count
        self.interactions = nn.ModuleList(layers)
        self.output = nn.Linear(sum(config.interactions), 1, bias=False)
        # Its last layer's bias is that of the whole.
        self.deep = mlp(num_vectors * (inputs.dim - 1), config.hidden, 1, config.dropout)

    def forward(self, pooled: Tensor, dense: Tensor, unpooled: list[Tensor], lengths: list[Tensor]) -> Tensor:  # noqa: ARG002
        """Return the examples' logits."""
        linear_B, first = weights_and_factors(self.fields(pooled, dense))
        vectors = first
        sums: list[Tensor] = []
        for interaction in self.interactions:
            vectors = interaction(vectors, first)
            sums.append(vectors.sum(dim=2))
        return linear_B + (self.output(torch.cat(sums, dim=1)) + self.deep(first.flatten(1))).squeeze(1)


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
        found = fields.of_fields("head.fields", head.fields, self._dense)
        found |= layout.of_mlp("head.deep", head.deep, factors)
        first = fields.each(fields.axis(self.tables, self._dense, 1))
        before, sums = first, ()
        for number, interaction in enumerate(head.interactions):
            assert isinstance(interaction, Interaction)
            products = tuple(
                layout.Block(label=f"{one.label} x {other.label}", width=1, features=one.features + other.features)
                for one in before
                for other in first
            )
            label, count = f"interaction {number}", len(interaction.weight)
            axes = (layout.units(label, count), products)
            found[f"head.interactions.{number}.weight"] = layout.Weight(place=f"head {label} weight", axes=axes)
            before = tuple(block for n in range(count) for block in layout.units(f"{label} {n}", 1))
            sums += layout.units(label, count)
        return found | layout.of_linear("head.output", "head output", head.output, layout.units("output", 1), sums)
