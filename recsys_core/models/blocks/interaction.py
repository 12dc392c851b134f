"""Pairwise dot products of feature vectors (Naumov et al. 2019, section 2.1.3), with a backward that only gathers.

Legend: B examples, K vectors, D width, P = K (K - 1) / 2 pairs, L kept numbers, O = L + P outputs, H outputs of the
layer behind them, X the examples of a block.
"""

from typing import Any

import torch
from torch import Tensor, nn

from recsys_core.ops import pairs as kernels
from recsys_core.ops.linear import linear, outer, product_dtype

_BLOCK_ROWS = 2_048  # per core: what is made of them stays in its caches, and calls for each cost little
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
        """Return [B, H], what `layer` makes of `forward`'s outputs, activated if `relu`; on a CPU.

        Forward and backward go block by block: the outputs are wide, and the layer finds them in the cache. Under
        autocast all that is not summed over blocks is of autocast's type. By the kernels of `ops.pairs` where they are.
        """
        if kernels.are_offered(product_dtype(parts[0])) and not any(part.dtype == torch.float64 for part in parts):
            shape = self.num_vectors, self.kept, relu, torch.is_grad_enabled()
            wide = [part.float().contiguous() for part in parts]
            return _KernelLayer.apply(*shape, layer.weight, layer.bias, *wide)
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
    """Block by block of rows: what is kept and the pairs go through columns of the weight of their own.

    So nothing is concatenated, and each of their gradients is whole rows.
    """

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
        kind, num_rows = product_dtype(parts[0]), len(parts[0])
        pairs, widths = _Pairs(place_of_P, pair_of_KK, kind), [part.shape[1] for part in parts]
        of_kept_HL, of_pairs_HQ = weight_HO[:, :kept].to(kind), pairs.weight(weight_HO[:, kept:])
        narrow_bias_H = bias_H.to(kind)
        numbers = torch.empty(num_rows, sum(widths), dtype=kind)
        pairs_BQ = torch.empty(num_rows, of_pairs_HQ.shape[1], dtype=kind)
        hidden_BH = torch.empty(num_rows, len(bias_H), dtype=kind)
        for rows in _blocks(num_rows):
            for own, part in zip(numbers[rows].split(widths, dim=1), parts, strict=True):
                own.copy_(part[rows])
            pairs.multiply(numbers[rows], into_BQ=pairs_BQ[rows])
            made_XH = linear(numbers[rows, :kept], of_kept_HL, narrow_bias_H)
            made_XH = linear(pairs_BQ[rows], of_pairs_HQ, plus_XZ=made_XH)
            hidden_BH[rows] = made_XH.relu_() if relu else made_XH
        ctx.widths, ctx.kept, ctx.relu, ctx.pairs = widths, kept, relu, pairs
        ctx.save_for_backward(numbers, pairs_BQ, hidden_BH, weight_HO)
        return hidden_BH

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        numbers, pairs_BQ, hidden_BH, weight_HO = ctx.saved_tensors
        kept, kind, pairs = ctx.kept, numbers.dtype, ctx.pairs
        by_kept_HL, by_pairs_HQ = weight_HO[:, :kept].to(kind), pairs.weight(weight_HO[:, kept:], backward=True)
        of_parts = [weight_HO.new_empty(len(numbers), width) for width in ctx.widths]
        of_kept_HL, of_pairs_HQ = weight_HO.new_zeros(by_kept_HL.shape), weight_HO.new_zeros(by_pairs_HQ.shape)
        of_bias_H = weight_HO.new_zeros(len(weight_HO))
        for rows in _blocks(len(numbers)):
            of_hidden_XH = gradients[0][rows].to(kind)
            if ctx.relu:
                # An output of ReLU above 0 lets the gradient through.
                of_hidden_XH = torch.ops.aten.threshold_backward(of_hidden_XH, hidden_BH[rows], 0)
            of_bias_H += of_hidden_XH.sum(dim=0)
            of_kept_HL += outer(of_hidden_XH, numbers[rows, :kept])
            of_pairs_HQ += outer(of_hidden_XH, pairs_BQ[rows])
            of_numbers = pairs.of_numbers(linear(of_hidden_XH, by_pairs_HQ.T), numbers[rows])
            if kept == of_numbers.shape[1]:
                of_numbers = linear(of_hidden_XH, by_kept_HL.T, plus_XZ=of_numbers)
            else:
                of_numbers[:, :kept] += linear(of_hidden_XH, by_kept_HL.T)
            for of_part, found in zip(of_parts, of_numbers.split(ctx.widths, dim=1), strict=True):
                of_part[rows] = found
        of_weight_HO = torch.cat([of_kept_HL, pairs.of_weight(of_pairs_HQ)], dim=1)
        return None, None, None, None, of_weight_HO, of_bias_H, *of_parts


class _KernelLayer(torch.autograd.Function):
    """Block by block of rows: one kernel writes what the layer reads, in a block without gradients over and over.

    Zeros fill up the outputs' last cache line.
    """

    @staticmethod
    def forward(
        ctx: Any,
        num_vectors: int,
        kept: int,
        relu: bool,
        learns: bool,
        weight_HO: Tensor,
        bias_H: Tensor,
        *parts: Tensor,
    ) -> Tensor:
        kind, num_rows, num_outputs = product_dtype(parts[0]), len(parts[0]), weight_HO.shape[1]
        weight_HS = nn.functional.pad(weight_HO, (0, -num_outputs % _ALIGNED_NUMBERS)).to(kind)
        narrow_bias_H, blocks = bias_H.to(kind), _blocks(num_rows)
        num_kept_rows = num_rows if learns or len(blocks) < 2 else blocks[0].stop
        outputs_BS = torch.empty(num_kept_rows, weight_HS.shape[1], dtype=kind)
        hidden_BH = torch.empty(num_rows, len(bias_H), dtype=kind)
        for rows in blocks:
            of_block = [part[rows] for part in parts]
            made_XS = outputs_BS[rows] if learns else outputs_BS[: len(of_block[0])]
            kernels.multiply(of_block, num_vectors, kept, into_BS=made_XS)
            hidden_BH[rows] = linear(made_XS, weight_HS, narrow_bias_H, relu=relu)
        ctx.num_vectors, ctx.kept, ctx.relu, ctx.num_outputs = num_vectors, kept, relu, num_outputs
        if learns:
            ctx.save_for_backward(outputs_BS, hidden_BH, weight_HS, *parts)
        return hidden_BH

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        outputs_BS, hidden_BH, weight_HS, *parts = ctx.saved_tensors
        of_parts = [torch.empty_like(part) for part in parts]
        of_weight_HS = torch.zeros_like(weight_HS, dtype=torch.float32)
        of_bias_H = of_weight_HS.new_zeros(len(weight_HS))
        for rows in _blocks(len(hidden_BH)):
            of_hidden_XH = gradients[0][rows].to(weight_HS.dtype)
            if ctx.relu:
                # An output of ReLU above 0 lets the gradient through.
                of_hidden_XH = torch.ops.aten.threshold_backward(of_hidden_XH, hidden_BH[rows], 0)
            of_bias_H += of_hidden_XH.sum(dim=0)
            of_weight_HS += outer(of_hidden_XH, outputs_BS[rows])
            of_outputs_XS = linear(of_hidden_XH, weight_HS.T)
            of_block, into = [part[rows] for part in parts], [part[rows] for part in of_parts]
            kernels.differentiate(of_block, ctx.num_vectors, ctx.kept, of_outputs_XS, into=into)
        return None, None, None, None, of_weight_HS[:, : ctx.num_outputs], of_bias_H, *of_parts


class _Pairs:
    """The pairs as a layer reads them, [X, Q]: chosen, or all K·K products, of which each pair's are two.

    Chosen in float32, where to choose is cheaper than to multiply by a weight of twice the width. In narrow types it is
    dearer. Behind the chosen ones are columns that fill up a cache line, at least one: its weight is 0, and so its
    gradient, which is that of the products of a vector with itself too.
    """

    def __init__(self, place_of_P: Tensor, pair_of_KK: Tensor, kind: torch.dtype) -> None:
        num_pairs, self._num_vectors = len(place_of_P), _num_vectors(pair_of_KK)
        self._kind, self._chosen, self._place_of_P = kind, kind in (torch.float32, torch.float64), place_of_P
        self._padding = _ALIGNED_NUMBERS - num_pairs % _ALIGNED_NUMBERS
        self._place_of_Q = nn.functional.pad(place_of_P, (0, self._padding))
        self._pair_of_KK = pair_of_KK.clone()
        self._pair_of_KK[:: self._num_vectors + 1] = num_pairs

    def weight(self, weight_HP: Tensor, *, backward: bool = False) -> Tensor:
        """Return what [X, Q] are multiplied with, or whose product with a gradient is the gradient of them."""
        weight_HQ = nn.functional.pad(weight_HP, (0, self._padding))
        if not self._chosen:
            # Forward each pair is there twice; backward it is one number, whose gradient both places have.
            weight_HQ = weight_HQ.index_select(1, self._pair_of_KK) * (1 if backward else 0.5)
        return weight_HQ.to(self._kind)

    def of_weight(self, of_weight_HQ: Tensor) -> Tensor:
        """Return the gradient of the pairs' weight [H, P]."""
        if self._chosen:
            return of_weight_HQ[:, : len(self._place_of_P)]
        return of_weight_HQ.index_select(1, self._place_of_P)

    def multiply(self, numbers: Tensor, *, into_BQ: Tensor) -> None:
        """Multiply the vectors that stand side by side."""
        vectors_XKD = numbers.unflatten(1, (self._num_vectors, -1))
        if self._chosen:
            products = torch.bmm(vectors_XKD, vectors_XKD.transpose(1, 2)).flatten(1)
            torch.index_select(products, 1, self._place_of_Q, out=into_BQ)
        else:
            into_BKK = into_BQ.unflatten(1, (self._num_vectors, self._num_vectors))
            torch.bmm(vectors_XKD, vectors_XKD.transpose(1, 2), out=into_BKK)

    def of_numbers(self, of_pairs_XQ: Tensor, numbers: Tensor) -> Tensor:
        """Return the gradient of the vectors, side by side."""
        of_products = of_pairs_XQ.index_select(1, self._pair_of_KK) if self._chosen else of_pairs_XQ
        of_products = of_products.unflatten(1, (self._num_vectors, self._num_vectors))
        return torch.bmm(of_products, numbers.unflatten(1, (self._num_vectors, -1))).flatten(1)


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


def _blocks(num_rows: int) -> list[slice]:
    size = _BLOCK_ROWS * torch.get_num_threads()
    return [slice(first, first + size) for first in range(0, num_rows, size)]
