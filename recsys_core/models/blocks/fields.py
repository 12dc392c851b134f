"""Features as vectors of one width, side by side: what factorisation machines and their successors compare in pairs.

Legend: B examples, P pooled widths, F dense fields, K vectors, D their width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recsys_core.features import NumberFeature
from recsys_core.models.blocks import layout
from recsys_core.models.blocks.embeddings import Embeddings


class NumberVectors(nn.Module):
    """Dense fields [B, F] → [B, F, D]: each field's number times a vector of its own (Rendle 2010, section III)."""

    def __init__(self, num_dense: int, dim: int) -> None:
        """`dim` is D."""
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_dense, dim))
        nn.init.xavier_uniform_(self.weight)

    def forward(self, dense: Tensor) -> Tensor:
        """Return the fields' vectors."""
        return dense.unsqueeze(2) * self.weight


class Fields(nn.Module):
    """(pooled [B, P], dense [B, F]) → [B, K, D]: the features' embeddings, and behind them the dense fields' vectors.

    Attributes:
        num_vectors: K.
        dim: D.
    """

    def __init__(self, kind: str, tables: Embeddings, dense: Sequence[NumberFeature]) -> None:
        """`kind` is that of the model, for errors.

        Raises:
            ValueError: embeddings of different widths, or fewer than two vectors.
        """
        super().__init__()
        widths = {f.name: w for f, w in zip(tables.pooled_features, tables.pooled_widths, strict=True)}
        if len(set(widths.values())) > 1:
            raise ValueError(
                f"{kind} compares features with each other, so their embeddings have one width, not {widths}; give "
                "them one embedding_dim, and pool by sum, mean or max"
            )
        num_dense = sum(feature.dim for feature in dense)
        self.num_features, self.dim = len(widths), tables.pooled_widths[0]
        self.num_vectors: int = self.num_features + num_dense
        if self.num_vectors < 2:
            raise ValueError(f"{kind} needs two features to compare; name another one")
        self.has_numbers: bool = num_dense > 0
        self.numbers = NumberVectors(num_dense, self.dim) if num_dense else nn.Identity()

    def forward(self, pooled: Tensor, dense: Tensor) -> Tensor:
        """Return the examples' vectors."""
        vectors = pooled.view(pooled.shape[0], self.num_features, self.dim)
        return torch.cat([vectors, self.numbers(dense)], dim=1) if self.has_numbers else vectors


def axis(tables: Embeddings, dense: Sequence[NumberFeature], width: int) -> layout.Axis:
    """Return what `Fields` gives, vector by vector, of which `width` numbers each are read."""
    names = [(feature.name, 1) for feature in tables.pooled_features] + list(dense)
    return tuple(layout.of_feature(name, width, repeats) for name, repeats in names)


def hidden(blocks: layout.Axis) -> layout.Axis:
    """Return the same, where each feature's numbers have read the others too: a table of zeros leaves no zeros."""
    return tuple(block.model_copy(update={"features": ()}) for block in blocks)


def each(blocks: layout.Axis) -> layout.Axis:
    """Return one block for each vector, numbered where a feature has several."""
    return tuple(
        block.model_copy(update={"label": f"{block.label} {n}" if block.repeats > 1 else block.label, "repeats": 1})
        for block in blocks
        for n in range(block.repeats)
    )


def pairs(blocks: layout.Axis, width: int) -> layout.Axis:
    """Return a block for each pair of vectors (i, j), i < j, in the order of `pair_places`."""
    vectors = each(blocks)
    return tuple(
        layout.Block(label=f"{one.label} x {other.label}", width=width, features=one.features + other.features)
        for number, one in enumerate(vectors)
        for other in vectors[number + 1 :]
    )


def pair_places(num_vectors: int) -> tuple[Tensor, Tensor]:
    """Return the places i and j of all pairs i < j, int64 [K (K - 1) / 2] each."""
    first, second = torch.triu_indices(num_vectors, num_vectors, 1, device="cpu").unbind()
    return first.contiguous(), second.contiguous()


def of_fields(name: str, fields: nn.Module, dense: Sequence[NumberFeature]) -> layout.Layout:
    """Return the layout of `Fields` that are called `name` in their model's state."""
    assert isinstance(fields, Fields)
    if not fields.has_numbers:
        return {}
    axes = (layout.numbers(dense), layout.units("vector", fields.dim))
    return {f"{name}.numbers.weight": layout.Weight(place=f"{name} numbers", axes=axes)}


def of_bias(name: str) -> layout.Layout:
    """Return the layout of one number [1] that is added to every logit."""
    return {name: layout.Weight(place=name, axes=(layout.units("output", 1),))}


def of_norm(name: str, blocks: layout.Axis) -> layout.Layout:
    """Return the layout of a `LayerNorm` over these numbers."""
    weight = layout.Weight(place=f"{name} weight", axes=(blocks,))
    return {
        f"{name}.weight": weight,
        f"{name}.bias": layout.Weight(place=f"{name} bias", axes=(blocks,), of=f"{name}.weight"),
    }
