"""What becomes of the rows of a jagged tensor: sums, maxima and tiles, and the sums' inverse; without padding.

values_ND    a0 a1 | | b0          three rows of lengths 2 0 1
segment_sum  a0+a1 0   b0          one per row
segment_max  the largest of each column; zeros for a row without
tiled, n=2   a0|a1 0|0 b0|0        the first n side by side
spread       r0 r0     r2          a row's own vector at each of its values

Autograd's ways back are slow on CPUs: `index_select` scatters row by row on one thread, although the rows lie in
order. Each of these is the other's gradient, and both run as a gather or a bag. Legend: B rows, N values, D width.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def row_numbers(lengths_B: Tensor, num_values: int) -> Tensor:
    """Return the row that each of the N = `num_values` values belongs to, [N] int64: 0 0 2 for lengths 2 0 1.

    A GPU need not be waited for to learn N, and a compiled model is one graph.
    """
    rows_B = torch.arange(lengths_B.shape[0], device=lengths_B.device)
    return torch.repeat_interleave(rows_B, lengths_B, output_size=num_values)


def segment_sum(values_ND: Tensor, lengths_B: Tensor) -> Tensor:
    """Return the sum of each row's values, [B, D]; zeros for a row without."""
    if torch.jit.is_scripting():  # pyright: ignore[reportPrivateImportUsage]
        return bags(values_ND, lengths_B)
    else:  # noqa: RET505 - TorchScript compiles a branch that is not taken unless it is an `else`
        return _SegmentSum.apply(values_ND, lengths_B)


def segment_max(values_ND: Tensor, lengths_B: Tensor) -> Tensor:
    """Return the largest number of each column among a row's values, [B, D]; zeros for a row without."""
    zeros_BD = values_ND.new_zeros(lengths_B.shape[0], values_ND.shape[1])
    rows_ND = row_numbers(lengths_B, values_ND.shape[0]).unsqueeze(1).expand(-1, values_ND.shape[1])
    return zeros_BD.scatter_reduce(0, rows_ND, values_ND, reduce="amax", include_self=False)


def tiled(values_ND: Tensor, lengths_B: Tensor, count: int) -> Tensor:
    """Return each row's first `count` values side by side, [B, count * D]; zeros where it has fewer."""
    num_rows, dim = lengths_B.shape[0], values_ND.shape[1]
    lengths_B = lengths_B.to(torch.int64)
    rows_N = row_numbers(lengths_B, values_ND.shape[0])
    place_N = torch.arange(values_ND.shape[0], device=values_ND.device)
    place_N = place_N - (torch.cumsum(lengths_B, 0) - lengths_B).index_select(0, rows_N)
    # What is behind the first `count` goes to a place of its own, which is left out.
    place_N = torch.where(place_N < count, rows_N * count + place_N, num_rows * count)
    places_XD = values_ND.new_zeros(num_rows * count + 1, dim).index_copy(0, place_N, values_ND)
    return places_XD[: num_rows * count].view(num_rows, count * dim)


def spread(rows_BD: Tensor, lengths_B: Tensor, num_values: int) -> Tensor:
    """Return the row of each of the N = `num_values` values, [N, D]."""
    if torch.jit.is_scripting():  # pyright: ignore[reportPrivateImportUsage]
        return rows_BD.index_select(0, row_numbers(lengths_B, num_values))
    else:  # noqa: RET505
        return _Spread.apply(rows_BD, lengths_B, num_values)


def bags(values_ND: Tensor, lengths_B: Tensor) -> Tensor:
    """Return the sum of each row's values, [B, D]; fast, but its gradient is not."""
    if values_ND.shape[0] == 0:
        return values_ND.new_zeros(lengths_B.shape[0], values_ND.shape[1])
    lengths_B = lengths_B.to(torch.int64)
    every_N = torch.arange(values_ND.shape[0], device=values_ND.device)
    return functional.embedding_bag(every_N, values_ND, torch.cumsum(lengths_B, 0) - lengths_B, mode="sum")


class _SegmentSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values_ND: Tensor, lengths_B: Tensor) -> Tensor:
        ctx.save_for_backward(lengths_B)
        ctx.num_values = values_ND.shape[0]
        return bags(values_ND, lengths_B)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (lengths_B,) = ctx.saved_tensors
        return gradients[0].index_select(0, row_numbers(lengths_B, ctx.num_values)), None


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows_BD: Tensor, lengths_B: Tensor, num_values: int) -> Tensor:
        ctx.save_for_backward(lengths_B)
        return rows_BD.index_select(0, row_numbers(lengths_B, num_values))

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (lengths_B,) = ctx.saved_tensors
        return bags(gradients[0], lengths_B), None, None
