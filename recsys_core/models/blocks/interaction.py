"""Pairwise dot products of feature vectors (Naumov et al. 2019, section 2.1.3), with a backward that only gathers.

Legend: B examples, K vectors, D width, P = K (K - 1) / 2 pairs, O = kept + P outputs, H outputs of the layer behind
them, X the examples of a block.
"""

from typing import Any

import torch
from torch import Tensor, nn

from recsys_core.ops.linear import linear, outer

_BLOCK_ROWS = 512  # per core: what is made of them stays in its cache
_ALIGNED_NUMBERS = 16  # of float32 these fill a cache line


class DotInteraction(nn.Module):
    """Parts that make K·D numbers side by side → [B, O]: the first `kept` of them, then all pairs' dot products.

    Autograd's backward of `index_select` adds into [B, K, K] number by number; that alone takes longer than all
    else together. The gradient of the vectors is a symmetric matrix times the vectors, and that matrix is a gather
    of the pairs' gradients. What the next layer wants beside the pairs rides along, so that nothing is concatenated.
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

    @torch.jit.unused
    def into(self, layer: nn.Linear, parts: list[Tensor], *, relu: bool) -> Tensor:
        """Return [B, H], what `layer` makes of `forward`'s outputs, activated if `relu`; in float32 on a CPU.

        Both ways go block by block: the outputs are wide, and the layer finds them in the cache.
        """
        shared = self.place_of_P, self.pair_of_KK, self.kept, relu
        return _InteractionLayer.apply(*shared, layer.weight, layer.bias, *parts)


class _Interaction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, place_of_P: Tensor, pair_of_KK: Tensor, kept: int, *parts: Tensor) -> Tensor:
        ctx.widths, ctx.types, ctx.kept = [part.shape[1] for part in parts], [part.dtype for part in parts], kept
        numbers = torch.cat(parts, dim=1)
        ctx.save_for_backward(numbers, pair_of_KK)
        return torch.cat([numbers[:, :kept], _pairs(numbers, place_of_P, pair_of_KK).to(numbers.dtype)], dim=1)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        numbers, pair_of_KK = ctx.saved_tensors
        of_parts = _of_numbers(gradients[0], numbers, ctx.kept, pair_of_KK).split(ctx.widths, dim=1)
        return None, None, None, *(part.to(kind) for part, kind in zip(of_parts, ctx.types, strict=True))


class _InteractionLayer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        place_of_P: Tensor,
        pair_of_KK: Tensor,
        kept: int,
        relu: bool,
        weight_HO: Tensor,
        bias_H: Tensor,
        *parts: Tensor,
    ) -> Tensor:
        num_rows, num_outputs = len(parts[0]), weight_HO.shape[1]
        ctx.widths, ctx.kept, ctx.relu = [part.shape[1] for part in parts], kept, relu
        num_numbers = sum(ctx.widths)
        padded_HO = _padded(weight_HO)
        outputs_BO = padded_HO.new_empty(num_rows, padded_HO.shape[1])
        outputs_BO[:, num_outputs:] = 0
        # Where all numbers are kept, the outputs are their home.
        numbers = outputs_BO if kept == num_numbers else outputs_BO.new_empty(num_rows, num_numbers)
        hidden_BH = outputs_BO.new_empty(num_rows, len(bias_H))
        for rows in _blocks(num_rows):
            numbers_XN = torch.cat([part[rows] for part in parts], dim=1)
            numbers[rows, :num_numbers] = numbers_XN
            outputs_BO[rows, :kept] = numbers_XN[:, :kept]
            outputs_BO[rows, kept:num_outputs] = _pairs(numbers_XN, place_of_P, pair_of_KK)
            hidden_BH[rows] = linear(outputs_BO[rows], padded_HO, bias_H, relu=relu)
        ctx.save_for_backward(outputs_BO, numbers, hidden_BH, padded_HO, pair_of_KK)
        return hidden_BH

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        outputs_BO, numbers, hidden_BH, padded_HO, pair_of_KK = ctx.saved_tensors
        num_numbers, num_outputs = sum(ctx.widths), ctx.kept + _num_pairs(pair_of_KK)
        of_parts = [numbers.new_empty(len(numbers), width) for width in ctx.widths]
        of_weight_HO, of_bias_H = torch.zeros_like(padded_HO), padded_HO.new_zeros(len(padded_HO))
        for rows in _blocks(len(numbers)):
            of_hidden_XH = gradients[0][rows]
            if ctx.relu:
                # An output of ReLU above 0 lets the gradient through.
                of_hidden_XH = torch.ops.aten.threshold_backward(of_hidden_XH, hidden_BH[rows], 0)
            of_bias_H += of_hidden_XH.sum(dim=0)
            of_weight_HO += outer(of_hidden_XH, outputs_BO[rows])
            of_outputs_XO = linear(of_hidden_XH, padded_HO.T)[:, :num_outputs]
            of_numbers = _of_numbers(of_outputs_XO, numbers[rows, :num_numbers], ctx.kept, pair_of_KK)
            for of_part, found in zip(of_parts, of_numbers.split(ctx.widths, dim=1), strict=True):
                of_part[rows] = found
        return None, None, None, None, of_weight_HO[:, :num_outputs], of_bias_H, *of_parts


def _pairs(numbers: Tensor, place_of_P: Tensor, pair_of_KK: Tensor) -> Tensor:
    """Return the pairs' dot products [B, P] of vectors that stand side by side."""
    vectors_BKD = numbers.unflatten(1, (_num_vectors(pair_of_KK), -1))
    return torch.bmm(vectors_BKD, vectors_BKD.transpose(1, 2)).flatten(1).index_select(1, place_of_P)


def _of_numbers(of_outputs_BO: Tensor, numbers: Tensor, kept: int, pair_of_KK: Tensor) -> Tensor:
    """Return the gradient of the vectors, side by side."""
    num_vectors = _num_vectors(pair_of_KK)
    of_pairs_BP = of_outputs_BO[:, kept:]
    of_products = torch.gather(of_pairs_BP, 1, pair_of_KK.expand(len(of_pairs_BP), -1))
    of_products = of_products.view(-1, num_vectors, num_vectors)
    of_products.diagonal(dim1=1, dim2=2).zero_()
    of_numbers = torch.bmm(of_products, numbers.unflatten(1, (num_vectors, -1)).to(of_products.dtype)).flatten(1)
    of_numbers[:, :kept] += of_outputs_BO[:, :kept]
    return of_numbers


def _num_vectors(pair_of_KK: Tensor) -> int:
    return round(len(pair_of_KK) ** 0.5)


def _num_pairs(pair_of_KK: Tensor) -> int:
    return (len(pair_of_KK) - _num_vectors(pair_of_KK)) // 2


def _padded(weight_HO: Tensor) -> Tensor:
    """Return the weight with columns of zeros, so that rows of the outputs, made as wide, start at cache lines."""
    width = weight_HO.shape[1]
    return nn.functional.pad(weight_HO, (0, -width % _ALIGNED_NUMBERS))


def _blocks(num_rows: int) -> list[slice]:
    size = _BLOCK_ROWS * torch.get_num_threads()
    return [slice(first, first + size) for first in range(0, num_rows, size)]
