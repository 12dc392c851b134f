"""Tables in fewer bytes: half precision, or int8 or int4 with a scale and an offset for each row.

Legend: N values, D width, R rows of a table, B some of them, P bytes of a row.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from recsys_core.exported.lookups import Lookup, PooledLookup
from recsys_core.features import SparseFeature
from recsys_core.models.blocks.embeddings import pool

_ROWS_AT_ONCE = 65_536
_HALF_A_BYTE = 4


class Int8Table(nn.Module):
    """Rows of int8: a row's numbers are `low + scale * (stored + 128)`, so that its extremes are kept."""

    stored: Tensor
    scale: Tensor
    low: Tensor

    def __init__(self, weight_RD: Tensor) -> None:
        """Round each number to one of 256 between its row's smallest and largest one."""
        super().__init__()
        stored_RD = torch.empty(weight_RD.shape, dtype=torch.int8)
        scale_R, low_R = _fitted(weight_RD, 8)
        for rows, steps_BD in _steps(weight_RD, scale_R, low_R):
            stored_RD[rows] = (steps_BD - 128).to(torch.int8)
        self.register_buffer("stored", stored_RD)
        self.register_buffer("scale", scale_R)
        self.register_buffer("low", low_R)

    def forward(self, ids_N: Tensor) -> Tensor:
        """Return [N, D], float32."""
        steps_ND = self.stored.index_select(0, ids_N).float() + 128
        return steps_ND * self.scale.index_select(0, ids_N)[:, None] + self.low.index_select(0, ids_N)[:, None]


class Int4Table(nn.Module):
    """Rows of int4, two numbers in a byte: a row's numbers are `low + scale * step`, so that its extremes are kept."""

    stored: Tensor
    scale: Tensor
    low: Tensor

    def __init__(self, weight_RD: Tensor) -> None:
        """Round each number to one of 16 between its row's smallest and largest one."""
        super().__init__()
        num_rows, self.dim = weight_RD.shape
        # The number at 2 i is the lower half of byte i, the one at 2 i + 1 the upper half.
        stored_RP = torch.empty((num_rows, (self.dim + 1) // 2), dtype=torch.uint8)
        scale_R, low_R = _fitted(weight_RD, _HALF_A_BYTE)
        for rows, steps_BD in _steps(weight_RD, scale_R, low_R):
            pairs_BP2 = nn.functional.pad(steps_BD, (0, self.dim % 2)).to(torch.uint8).view(len(steps_BD), -1, 2)
            stored_RP[rows] = pairs_BP2[:, :, 0] | (pairs_BP2[:, :, 1] << _HALF_A_BYTE)
        self.register_buffer("stored", stored_RP)
        self.register_buffer("scale", scale_R)
        self.register_buffer("low", low_R)

    def forward(self, ids_N: Tensor) -> Tensor:
        """Return [N, D], float32."""
        stored_NP = self.stored.index_select(0, ids_N)
        steps_ND = torch.stack([stored_NP & 15, stored_NP >> 4], dim=2).flatten(1)[:, : self.dim].float()
        return steps_ND * self.scale.index_select(0, ids_N)[:, None] + self.low.index_select(0, ids_N)[:, None]


def _fitted(weight_RD: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Return each row's step and smallest number, float32 [R]."""
    low_R, high_R = weight_RD.amin(1).float(), weight_RD.amax(1).float()
    return (high_R - low_R) / (2**bits - 1), low_R


def _steps(weight_RD: Tensor, scale_R: Tensor, low_R: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield some rows and how many steps their numbers are above the smallest: a table's float32 is held in chunks."""
    for start in range(0, len(weight_RD), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        scale_B = torch.where(scale_R[rows] > 0, scale_R[rows], 1.0)
        yield rows, ((weight_RD[rows].float() - low_R[rows, None]) / scale_B[:, None]).round()


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
    """Return tables by name: as they were trained, or in `float16`, `int8` or `int4`."""
    if dtype == "int8":
        return {name: Int8Table(weight) for name, weight in weights.items()}
    if dtype == "int4":
        return {name: Int4Table(weight) for name, weight in weights.items()}
    if dtype == "float16":
        return {name: nn.Embedding.from_pretrained(weight.half()) for name, weight in weights.items()}
    return {name: nn.Embedding.from_pretrained(weight) for name, weight in weights.items()}


def pooled_lookup(feature: SparseFeature, table: nn.Module) -> Lookup:
    """Return what looks a pooled feature up in a table."""
    if isinstance(table, nn.Embedding) and table.weight.dtype != torch.float16:
        return PooledLookup(feature, table)
    return GatheredLookup(feature, table)
