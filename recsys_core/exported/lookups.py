"""Embedding look-ups of plain torch, which an exported module holds in place of TorchRec's collections."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from recsys_core.features import SparseFeature
from recsys_core.models.blocks.embeddings import pool


class Lookup(nn.Module):
    """One feature's embeddings, times their weights, out of the tensors of `inputs.tower_inputs`."""

    def __init__(self, feature: SparseFeature, table: nn.Module) -> None:
        """`table` may be shared with other features."""
        super().__init__()
        self.table = table
        self.name: str = feature.name
        self.weighted: bool = feature.weighted
        self.pooling: str = feature.pooling
        self.tile_length: int = feature.tile_length

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return [N, D], unpooled."""
        values_ND = self.table(inputs[self.name + ".values"]).float()
        if self.weighted:
            values_ND = values_ND * inputs[self.name + ".weights"].unsqueeze(1)
        return values_ND


class PooledLookup(Lookup):
    """One feature's pooled embeddings."""

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return [B, D], or of a tile [B, tile_length * D]; a row without ids pools to zeros."""
        ids, lengths = inputs[self.name + ".values"], inputs[self.name + ".lengths"]
        weights: Tensor | None = None
        if self.weighted:
            weights = inputs[self.name + ".weights"]
        elif self.pooling == "mean" or self.pooling == "sum":  # noqa: PLR1714 - for TorchScript
            offsets = torch.cumsum(lengths, 0) - lengths
            weight_RD = self.table.weight
            return functional.embedding_bag(ids, weight_RD, offsets, mode=self.pooling).float()  # pyright: ignore[reportArgumentType]
        values_ND = self.table(ids).float()
        if weights is not None:
            values_ND = values_ND * weights.unsqueeze(1)
        return pool(values_ND, lengths, self.pooling, self.tile_length, weights)
