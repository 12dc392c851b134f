"""Pairwise dot products of feature vectors (Naumov et al. 2019, section 2.1.3), with a way back that only gathers.

Legend: B examples, K vectors, D width, P = K (K - 1) / 2 pairs, X the examples of a block.
"""

from typing import Any

import torch
from torch import Tensor, nn

from recsys_core.models.blocks.mlp import aligned

_BLOCK_ROWS = 512  # per core: their [K, K] products stay in its cache


class DotInteraction(nn.Module):
    """Parts that make K·D numbers side by side → [B, kept + P]: the first `kept` of them, then all pairs' dot products.

    Autograd's way back through `index_select` adds into [B, K, K] number by number; that alone takes longer than all
    else together. The gradient of the vectors is a symmetric matrix times the vectors, and that matrix is a gather
    of the pairs' gradients. What the next layer wants beside the pairs rides along, so that nothing is concatenated.
    On a CPU both ways go block by block.
    """

    place_of_P: Tensor
    pair_of_KK: Tensor

    def __init__(self, num_vectors: int, kept: int) -> None:
        """`kept` numbers of each example go through as they are."""
        super().__init__()
        rows, columns = torch.tril_indices(num_vectors, num_vectors, -1).unbind()
        num_pairs = len(rows)
        # Where in [K, K] each pair is, and which pair each place of [K, K] is; the diagonal is none, stood for by 0.
        pair_of_KK = torch.zeros(num_vectors, num_vectors, dtype=torch.int64)
        pair_of_KK[rows, columns] = pair_of_KK[columns, rows] = torch.arange(num_pairs)
        self.register_buffer("place_of_P", rows * num_vectors + columns, persistent=False)
        self.register_buffer("pair_of_KK", pair_of_KK.flatten(), persistent=False)
        self.num_vectors, self.kept = num_vectors, kept
        self.num_outputs: int = kept + num_pairs

    def forward(self, parts: list[Tensor]) -> Tensor:
        """Return the kept numbers and the pairs of each example."""
        if torch.jit.is_scripting():  # pyright: ignore[reportPrivateImportUsage]
            numbers_BX = torch.cat(parts, dim=1)
            # Not -1: a batch may have no rows.
            width = numbers_BX.shape[1] // self.num_vectors
            vectors_BKD = numbers_BX.view(numbers_BX.shape[0], self.num_vectors, width)
            products = torch.bmm(vectors_BKD, vectors_BKD.transpose(1, 2)).flatten(1)
            return torch.cat([numbers_BX[:, : self.kept], products.index_select(1, self.place_of_P)], 1)
        else:  # noqa: RET505 - TorchScript compiles a branch that is not taken unless it is an `else`
            return _Interaction.apply(self.place_of_P, self.pair_of_KK, self.kept, *parts)


class _Interaction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, place_of_P: Tensor, pair_of_KK: Tensor, kept: int, *parts: Tensor) -> Tensor:
        num_vectors, num_rows = round(len(pair_of_KK) ** 0.5), len(parts[0])
        ctx.widths, ctx.types, ctx.kept = [part.shape[1] for part in parts], [part.dtype for part in parts], kept
        num_numbers = sum(ctx.widths)
        width = kept + len(place_of_P)
        wide = max(ctx.types, key=lambda kind: kind.itemsize)
        output = parts[0].new_empty(num_rows, aligned(width), dtype=wide)[:, :width]
        # Where all numbers are kept, the output is their home.
        numbers = output if kept == num_numbers else output.new_empty(num_rows, num_numbers)
        for rows in _blocks(output):
            vectors_XKD = numbers[rows, :num_numbers].unflatten(1, (num_vectors, -1))
            for part, home in zip(parts, numbers[rows, :num_numbers].split(ctx.widths, dim=1), strict=True):
                home.copy_(part[rows])
            if kept < num_numbers:
                output[rows, :kept] = numbers[rows, :kept]
            products = torch.bmm(vectors_XKD, vectors_XKD.transpose(1, 2)).flatten(1)
            output[rows, kept:] = torch.index_select(products, 1, place_of_P)
        ctx.save_for_backward(numbers, pair_of_KK)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        numbers, pair_of_KK = ctx.saved_tensors
        of_output, kept, num_numbers = gradients[0], ctx.kept, sum(ctx.widths)
        num_vectors = round(len(pair_of_KK) ** 0.5)
        of_parts = [
            numbers.new_empty(len(numbers), width, dtype=kind)
            for width, kind in zip(ctx.widths, ctx.types, strict=True)
        ]
        for rows in _blocks(of_output):
            vectors_XKD = numbers[rows, :num_numbers].unflatten(1, (num_vectors, -1))
            of_pairs_XP = of_output[rows, kept:]
            of_products = torch.gather(of_pairs_XP, 1, pair_of_KK.expand(len(of_pairs_XP), -1))
            of_products = of_products.view(-1, num_vectors, num_vectors)
            of_products.diagonal(dim1=1, dim2=2).zero_()
            of_numbers = torch.bmm(of_products, vectors_XKD).flatten(1)
            of_numbers[:, :kept] += of_output[rows, :kept]
            for of_part, found in zip(of_parts, of_numbers.split(ctx.widths, dim=1), strict=True):
                of_part[rows] = found
        return None, None, None, *of_parts


def _blocks(rows: Tensor) -> list[slice]:
    """Part the rows, where a CPU's caches count; what is compiled finds blocks of its own."""
    if rows.device.type != "cpu" or torch.compiler.is_compiling():
        return [slice(None)]
    size = _BLOCK_ROWS * torch.get_num_threads()
    return [slice(first, first + size) for first in range(0, len(rows), size)]
