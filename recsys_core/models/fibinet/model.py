"""FiBiNET's modules.

Legend: B examples, P pooled widths, F dense fields, K vectors, D their width, N pairs = K (K - 1) / 2.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from recsys_core.models.blocks import fields, layout
from recsys_core.models.blocks.factorization import require_factors, weights_and_factors
from recsys_core.models.blocks.mlp import mlp
from recsys_core.models.blocks.shared import PooledModel
from recsys_core.models.fibinet import Config


class Senet(nn.Module):
    """[B, K, D] → [B, K, D]: each vector times a weight that follows from all vectors' means (section 3.2)."""

    def __init__(self, num_vectors: int, reduction: int) -> None:
        """`num_vectors` is K."""
        super().__init__()
        reduced = max(1, num_vectors // reduction)
        self.squeeze = nn.Linear(num_vectors, reduced, bias=False)
        self.excite = nn.Linear(reduced, num_vectors, bias=False)
        # With weights of both signs a vector might start without a weight for every example, and never get one.
        nn.init.uniform_(self.excite.weight, 0, reduced**-0.5)

    def forward(self, vectors: Tensor) -> Tensor:
        """Return the weighed vectors."""
        hidden = functional.relu(self.squeeze(vectors.mean(dim=2)))
        return vectors * functional.relu(self.excite(hidden)).unsqueeze(2)


class Bilinear(nn.Module):
    """[B, K, D] → [B, N, D]: v_i W ⊙ v_j of each pair i < j (section 3.3)."""

    first: Tensor
    second: Tensor

    def __init__(self, num_vectors: int, dim: int, kind: Literal["all", "each", "interaction"]) -> None:
        """`kind` says how many matrices there are."""
        super().__init__()
        first, second = fields.pair_places(num_vectors)
        self.register_buffer("first", first, persistent=False)
        self.register_buffer("second", second, persistent=False)
        self.kind: str = kind
        count = {"all": 1, "each": num_vectors - 1, "interaction": len(first)}[kind]
        self.weight = nn.Parameter(torch.empty(count, dim, dim))
        nn.init.uniform_(self.weight, -(dim**-0.5), dim**-0.5)

    def forward(self, vectors: Tensor) -> Tensor:
        """Return the pairs' products."""
        if self.kind == "interaction":
            left = torch.einsum("bnd,nde->bne", vectors.index_select(1, self.first), self.weight)
        elif self.kind == "each":
            each = torch.einsum("bkd,kde->bke", vectors[:, : self.weight.shape[0]], self.weight)
            left = each.index_select(1, self.first)
        else:
            left = torch.matmul(vectors, self.weight[0]).index_select(1, self.first)
        return left * vectors.index_select(1, self.second)


class Head(nn.Module):
    """(pooled [B, P], dense [B, F], unused lists) → logits [B]."""

    def __init__(self, inputs: fields.Fields, config: Config) -> None:
        """`inputs` make [B, K, D] of what is read."""
        super().__init__()
        self.fields = inputs
        count, dim = inputs.num_vectors, inputs.dim - 1
        self.senet = Senet(count, config.reduction)
        self.plain = Bilinear(count, dim, config.bilinear)
        self.weighed = Bilinear(count, dim, config.bilinear)
        self.deep = mlp(count * (count - 1) * dim, config.hidden, 1, config.dropout)

    def forward(self, pooled: Tensor, dense: Tensor, unpooled: list[Tensor], lengths: list[Tensor]) -> Tensor:  # noqa: ARG002
        """Return the examples' logits."""
        linear_B, vectors = weights_and_factors(self.fields(pooled, dense))
        products = torch.cat([self.plain(vectors), self.weighed(self.senet(vectors))], dim=1)
        return linear_B + self.deep(products.flatten(1)).squeeze(1)


class Model(PooledModel[Config]):
    """See `PooledModel`."""

    def make_head(self, config: Config) -> nn.Module:
        """See the base class.

        Raises:
            ValueError: embeddings of different widths or without factors.
        """
        self._bilinear = config.bilinear
        inputs = fields.Fields(config.kind, self.tables, self._dense)
        require_factors(config.kind, inputs.dim)
        return Head(inputs, config)

    def layout(self) -> layout.Layout:
        """See `base.RetrievalModel.layout`."""
        head = self.head
        assert isinstance(head, Head)
        dim = head.fields.dim - 1
        found = fields.of_fields("head.fields", head.fields, self._dense)
        vectors = fields.axis(self.tables, self._dense, 1)
        reduced = layout.units("reduced", head.senet.squeeze.out_features)
        found |= layout.of_linear("head.senet.squeeze", "head squeeze", head.senet.squeeze, reduced, vectors)
        found |= layout.of_linear("head.senet.excite", "head excite", head.senet.excite, vectors, reduced)
        pairs = fields.pairs(vectors, dim)
        own = {
            "all": layout.units("all", 1),
            "each": fields.each(vectors)[:-1],
            "interaction": fields.pairs(vectors, 1),
        }[self._bilinear]
        inputs: layout.Axis = ()
        for part in ("plain", "weighed"):
            axes = (own, layout.units("left", dim), layout.units("right", dim))
            found[f"head.{part}.weight"] = layout.Weight(place=f"head {part} bilinear", axes=axes)
            inputs += tuple(pair.model_copy(update={"label": f"{part} {pair.label}"}) for pair in pairs)
        return found | layout.of_mlp("head.deep", head.deep, inputs)
