"""Target attention over a behaviour sequence (Zhou et al. 2018, Deep Interest Network, section 4.3), on jagged rows.

Each element k of a row's sequence is weighted by an MLP over [q, k, q - k, q * k], where q is the row's target, and the
row's interest is the weighted sum. As in the paper the weights are not normalised: a user with a stronger interest has
a larger sum. Legend: B rows, N elements of all rows together, D width, H hidden.
"""

import bisect
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from recsys_core.models.blocks import layout
from recsys_core.models.blocks.jagged import bags, row_numbers, segment_sum, spread
from recsys_core.models.blocks.mlp import mlp
from recsys_core.ops.linear import linear, outer

# Elements that pass through all layers at a time: less memory than all at once, at little cost for the calls.
_BLOCK_ELEMENTS = 16_384


class TargetAttention(nn.Module):
    """(targets [B, D], elements [N, D], lengths [B]) → [B, D]; a row without elements gets zeros.

    The first layer is linear in [q, k, q - k, q * k], so it is also (W1 + W3) q + (W2 - W3) k + W4 (q * k): the part
    of q is computed once per row and not per element, and the N by 4D input is never made.
    """

    def __init__(self, dim: int, hidden: Sequence[int]) -> None:
        """`hidden` are the MLP's hidden widths, at least one."""
        super().__init__()
        assert hidden, "the attention's MLP has a hidden layer"
        self.first = nn.Linear(4 * dim, hidden[0])
        self.rest = nn.Sequential(nn.ReLU(), mlp(hidden[0], hidden[1:], 1))

    def forward(self, targets_BD: Tensor, elements_ND: Tensor, lengths_B: Tensor) -> Tensor:
        """Return each row's weighted sum of its elements."""
        if torch.jit.is_scripting():  # pyright: ignore[reportPrivateImportUsage]
            return self._plain(targets_BD, elements_ND, lengths_B)
        else:  # noqa: RET505 - TorchScript compiles a branch that is not taken unless it is an `else`
            return self._eager(targets_BD, elements_ND, lengths_B)

    @torch.jit.unused
    def _eager(self, targets_BD: Tensor, elements_ND: Tensor, lengths_B: Tensor) -> Tensor:
        # In narrow types the whole at once is as fast as blocks of it, whose sums would be rounded one by one.
        plain = elements_ND.device.type != "cpu" or torch.is_autocast_enabled("cpu")
        if plain or torch.compiler.is_compiling():
            return self._plain(targets_BD, elements_ND, lengths_B)
        layers = [self.first, *(layer for layer in self.rest.modules() if isinstance(layer, nn.Linear))]
        parameters = [tensor for layer in layers for tensor in (layer.weight, layer.bias)]
        return _Attention.apply(targets_BD, elements_ND, lengths_B, *parameters)

    def _plain(self, targets_BD: Tensor, elements_ND: Tensor, lengths_B: Tensor) -> Tensor:
        of_target_HD, of_element_HD, of_difference_HD, of_product_HD = self.first.weight.chunk(4, dim=1)
        by_row_BH = torch.addmm(self.first.bias, targets_BD, (of_target_HD + of_difference_HD).T)
        num_elements = elements_ND.shape[0]
        products_ND = spread(targets_BD, lengths_B, num_elements) * elements_ND
        by_element_NH = (
            torch.cat([elements_ND, products_ND], dim=1)
            @ torch.cat([of_element_HD - of_difference_HD, of_product_HD], dim=1).T
        )
        weights_N1 = self.rest(by_element_NH + spread(by_row_BH, lengths_B, num_elements))
        return segment_sum(elements_ND * weights_N1, lengths_B)


def of_attention(name: str, attention: TargetAttention, elements: layout.Axis) -> layout.Layout:
    """Return the layout of an attention that is called `name` in its model's state, over elements of these blocks."""
    inputs = tuple(
        one.model_copy(update={"label": f"{part} {one.label}"})
        for part in ("q", "k", "q - k", "q * k")
        for one in elements
    )
    hidden = layout.units("first", attention.first.out_features)
    found = layout.of_linear(f"{name}.first", f"{name} first", attention.first, hidden, inputs)
    return found | layout.of_mlp(f"{name}.rest.1", attention.rest[1], hidden)


class _Attention(torch.autograd.Function):
    """The same, block by block of rows; of the elements only what comes out of each ReLU is kept for the backward."""

    @staticmethod
    def forward(ctx: Any, targets_BD: Tensor, elements_ND: Tensor, lengths_B: Tensor, *parameters: Tensor) -> Tensor:
        (weight_HX, bias_H), weights, biases = parameters[:2], parameters[2::2], parameters[3::2]
        by_target_HD, by_both_HY = _joined(weight_HX)
        owner_N = row_numbers(lengths_B, len(elements_ND))
        of_row_BH = linear(targets_BD, by_target_HD, bias_H)
        output_BD = torch.empty_like(targets_BD)
        kept: list[list[Tensor]] = []
        for rows, span in _blocks(lengths_B):
            element_XD, owner_X = elements_ND[span], owner_N[span]
            both_XY = _both(element_XD, targets_BD.index_select(0, owner_X))
            outputs = [linear(both_XY, by_both_HY, plus_XZ=of_row_BH.index_select(0, owner_X)).relu_()]
            for number, (weight, bias) in enumerate(zip(weights, biases, strict=True), 1):
                outputs.append(linear(outputs[-1], weight, bias, relu=number < len(weights)))
            kept.append(outputs)
            output_BD[rows] = bags(element_XD * outputs[-1], lengths_B[rows])
        # Block by block, as they are made: to bring them together would copy all of them.
        ctx.kept = kept
        ctx.save_for_backward(targets_BD, elements_ND, lengths_B, owner_N, weight_HX, *weights)
        return output_BD

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        targets_BD, elements_ND, lengths_B, owner_N, weight_HX, *weights = ctx.saved_tensors
        by_target_HD, by_both_HY = _joined(weight_HX)
        dim = targets_BD.shape[1]
        of_targets_BD, of_elements_ND = torch.empty_like(targets_BD), torch.empty_like(elements_ND)
        of_row_BH = targets_BD.new_empty(len(targets_BD), len(weight_HX))
        of_both_HY = torch.zeros_like(by_both_HY)
        of_weights = [torch.zeros_like(weight) for weight in weights]
        of_biases = [weight.new_zeros(len(weight)) for weight in weights]
        for (rows, span), (*inputs, scores_X1) in zip(_blocks(lengths_B), ctx.kept, strict=True):
            element_XD, owner_X = elements_ND[span], owner_N[span]
            target_XD, of_interest_XD = (rows_BD.index_select(0, owner_X) for rows_BD in (targets_BD, gradients[0]))
            of_made = (of_interest_XD * element_XD).sum(dim=1, keepdim=True)
            for number in range(len(weights) - 1, -1, -1):
                of_weights[number] += outer(of_made, inputs[number])
                of_biases[number] += of_made.sum(dim=0)
                of_made = linear(of_made, weights[number].T)
                # An output of ReLU above 0 lets the gradient through.
                torch.ops.aten.threshold_backward.grad_input(of_made, inputs[number], 0, grad_input=of_made)
            of_row_BH[rows] = bags(of_made, lengths_B[rows])
            of_both_HY += outer(of_made, _both(element_XD, target_XD))
            of_both_XY = linear(of_made, by_both_HY.T)
            of_product_XD = of_both_XY[:, dim:]
            of_element_XD = of_interest_XD.mul_(scores_X1).add_(of_both_XY[:, :dim])
            of_elements_ND[span] = of_element_XD.addcmul_(of_product_XD, target_XD)
            of_targets_BD[rows] = bags(of_product_XD * element_XD, lengths_B[rows])
        of_targets_BD += linear(of_row_BH, by_target_HD.T)
        of_target_HD, of_element_HD, of_product_HD = outer(of_row_BH, targets_BD), *of_both_HY.chunk(2, dim=1)
        of_first = torch.cat([of_target_HD, of_element_HD, of_target_HD - of_element_HD, of_product_HD], dim=1)
        of_rest = [tensor for pair in zip(of_weights, of_biases, strict=True) for tensor in pair]
        return of_targets_BD, of_elements_ND, None, of_first, of_row_BH.sum(dim=0), *of_rest


def _both(element_XD: Tensor, target_XD: Tensor) -> Tensor:
    """Return what the first layer reads of each element, [k, q * k]."""
    return torch.cat([element_XD, element_XD * target_XD], dim=1)


def _joined(weight_HX: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first layer's weights of q [H, D], and those of k beside q * k [H, 2D]."""
    of_target_HD, of_element_HD, of_difference_HD, of_product_HD = weight_HX.chunk(4, dim=1)
    return of_target_HD + of_difference_HD, torch.cat([of_element_HD - of_difference_HD, of_product_HD], dim=1)


def _blocks(lengths_B: Tensor) -> Iterator[tuple[slice, slice]]:
    """Yield the rows of each block and their elements; a block has one row at least."""
    ends = lengths_B.cumsum(0).tolist()
    row = start = 0
    while row < len(ends):
        stop = max(row + 1, bisect.bisect_right(ends, start + _BLOCK_ELEMENTS))
        yield slice(row, stop), slice(start, ends[stop - 1])
        row, start = stop, ends[stop - 1]
