"""Columns of features, put side by side in another order: a copy forward, and a copy backward."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def regroup(
    values_BP: Tensor, keys: Sequence[str], widths: Sequence[int], groups: Sequence[Sequence[str]]
) -> list[Tensor]:
    """Return [B, P'] for each of the `groups`, which name every one of the `keys` once; these are `widths` wide.

    On CPUs TorchRec's own takes a slice for each feature, and copies these a row at a time.
    """
    assert sorted(keys) == sorted(key for group in groups for key in group), (keys, groups)
    # All features are whole numbers of units, so that units are what is moved.
    unit, first = math.gcd(*widths), 0
    units: dict[str, range] = {}
    for key, width in zip(keys, widths, strict=True):
        units[key] = range(first, first + width // unit)
        first += width // unit
    places = [torch.tensor([place for key in group for place in units[key]]) for group in groups]
    return list(_Regroup.apply(values_BP, unit, *places))


class _Regroup(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values_BP: Tensor, unit: int, *places: Tensor) -> tuple[Tensor, ...]:
        ctx.unit, ctx.places = unit, places
        values_BUX = values_BP.unflatten(1, (-1, unit))
        return tuple(values_BUX.index_select(1, place).flatten(1) for place in places)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        of_groups_BP = gradients[0] if len(gradients) == 1 else torch.cat(gradients, dim=1)
        back = torch.cat(ctx.places).argsort()
        of_values_BUX = of_groups_BP.unflatten(1, (-1, ctx.unit)).index_select(1, back)
        return of_values_BUX.flatten(1), None, *(None for _ in ctx.places)
