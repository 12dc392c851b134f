"""Multi-layer perceptron that ends linearly, as a tower must: TorchRec's MLP activates after its last layer too.

Legend: B rows, X inputs, H outputs of a layer.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

_ALIGNED_NUMBERS = 16  # of float32 these fill a cache line


class Mlp(nn.Sequential):
    """Linear-ReLU(-Dropout) for each hidden layer, then one Linear: [rows, inputs] → [rows, outputs].

    On a CPU, in float32, the layers run as one step of autograd, which activates in place on both ways and never makes
    a gradient whose rows start between cache lines: of 783 inputs that one took twice as long as of 784.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - as nn.Sequential names it
        """Return the last layer's output."""
        if torch.jit.is_scripting():  # pyright: ignore[reportPrivateImportUsage]
            for layer in self:
                input = layer(input)  # noqa: A001
            return input
        else:  # noqa: RET505 - TorchScript compiles a branch that is not taken unless it is an `else`
            return self._eager(input)

    @torch.jit.unused
    def _eager(self, input: Tensor) -> Tensor:  # noqa: A002
        drops = self.training and any(isinstance(layer, nn.Dropout) for layer in self)
        plain = input.dim() != 2 or input.device.type != "cpu" or torch.is_autocast_enabled("cpu")
        if drops or plain or torch.compiler.is_compiling():
            return super().forward(input)
        layers = [layer for layer in self if isinstance(layer, nn.Linear)]
        return _Mlp.apply(input, *(tensor for layer in layers for tensor in (layer.weight, layer.bias)))


def mlp(num_inputs: int, hidden: Sequence[int], num_outputs: int, dropout: float = 0.0) -> Mlp:
    """Return an `Mlp` with hidden layers of these widths."""
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(num_inputs, width), nn.ReLU()]
        if dropout:
            layers.append(nn.Dropout(dropout))
        num_inputs = width
    layers.append(nn.Linear(num_inputs, num_outputs))
    return Mlp(*layers)


class _Mlp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input_BX: Tensor, *parameters: Tensor) -> Tensor:
        """`parameters` are each layer's weight [H, X] and bias [H]."""
        weights, biases = parameters[::2], parameters[1::2]
        outputs = [input_BX]
        for number, (weight_HX, bias_H) in enumerate(zip(weights, biases, strict=True), 1):
            output_BH = torch.addmm(bias_H, outputs[-1], weight_HX.T)
            outputs.append(output_BH if number == len(weights) else output_BH.relu_())
        ctx.save_for_backward(*outputs[:-1], *weights)
        return outputs[-1]

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        num_layers = len(ctx.saved_tensors) // 2
        inputs, weights = ctx.saved_tensors[:num_layers], ctx.saved_tensors[num_layers:]
        of_output_BH = gradients[0]
        of_parameters: list[Tensor] = []
        for number in range(num_layers - 1, -1, -1):
            of_parameters = [of_output_BH.T @ inputs[number], of_output_BH.sum(dim=0), *of_parameters]
            if number:
                of_input_BX = of_output_BH @ weights[number]
                # An output of ReLU above 0 lets the gradient through.
                torch.ops.aten.threshold_backward.grad_input(of_input_BX, inputs[number], 0, grad_input=of_input_BX)
                of_output_BH = of_input_BX
        of_input_BX = aligned_product(of_output_BH, weights[0]) if ctx.needs_input_grad[0] else None
        return of_input_BX, *of_parameters


def aligned_product(left_BH: Tensor, right_HX: Tensor) -> Tensor:
    """Return left · right [B, X], a view of rows that start at multiples of a cache line."""
    num_rows, width = right_HX.shape
    padded_HX = right_HX.new_zeros(num_rows, aligned(width))
    padded_HX[:, :width] = right_HX
    return (left_BH @ padded_HX)[:, :width]


def aligned(width: int) -> int:
    """Return the next multiple of a cache line's numbers."""
    return -(-width // _ALIGNED_NUMBERS) * _ALIGNED_NUMBERS
