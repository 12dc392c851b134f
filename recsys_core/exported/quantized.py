"""Tables in fewer bytes: half precision, or int8 with a scale and an offset for each row. Legend: N values, D width."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from recsys_core.exported.lookups import Lookup, PooledLookup
from recsys_core.features import SparseFeature
from recsys_core.models.blocks.embeddings import pool

_LEVELS = 255


class Int8Table(nn.Module):
    """Rows of int8: a row's numbers are `low + scale * (stored + 128)`, so that its extremes are kept."""

    stored: Tensor
    scale: Tensor
    low: Tensor

    def __init__(self, weight_RD: Tensor) -> None:
        """Round each number to one of 256 between its row's smallest and largest one."""
        super().__init__()
        weight_RD = weight_RD.float()
        low_R, high_R = weight_RD.amin(1), weight_RD.amax(1)
        scale_R = (high_R - low_R) / _LEVELS
        steps_RD = (weight_RD - low_R[:, None]) / torch.where(scale_R > 0, scale_R, 1.0)[:, None]
        self.register_buffer("stored", (steps_RD.round() - 128).to(torch.int8))
        self.register_buffer("scale", scale_R)
        self.register_buffer("low", low_R)

    def forward(self, ids_N: Tensor) -> Tensor:
        """Return [N, D], float32."""
        steps_ND = self.stored.index_select(0, ids_N).float() + 128
        return steps_ND * self.scale.index_select(0, ids_N)[:, None] + self.low.index_select(0, ids_N)[:, None]


class GatheredLookup(Lookup):
    """One feature's pooled embeddings, whose table is no plain one: rows are gathered, then pooled."""

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        """See `lookups.PooledLookup`."""
        lengths = inputs[self.name + ".lengths"]
        values_ND = self.table(inputs[self.name + ".values"]).float()
        weights: Tensor | None = None
        if self.weighted:
            weights = inputs[self.name + ".weights"]
            values_ND = values_ND * weights.unsqueeze(1)
        return pool(values_ND, lengths, self.pooling, self.tile_length, weights)


def tables_of(weights: Mapping[str, Tensor], dtype: str) -> dict[str, nn.Module]:
    """Return tables by name: as they were trained, or in `float16` or `int8`."""
    if dtype == "int8":
        return {name: Int8Table(weight) for name, weight in weights.items()}
    if dtype == "float16":
        return {name: nn.Embedding.from_pretrained(weight.half()) for name, weight in weights.items()}
    return {name: nn.Embedding.from_pretrained(weight) for name, weight in weights.items()}


def pooled_lookup(feature: SparseFeature, table: nn.Module) -> Lookup:
    """Return what looks a pooled feature up in a table."""
    if isinstance(table, nn.Embedding) and table.weight.dtype != torch.float16:
        return PooledLookup(feature, table)
    return GatheredLookup(feature, table)
