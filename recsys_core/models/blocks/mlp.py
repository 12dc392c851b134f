"""Multi-layer perceptron that ends linearly, as a tower must: TorchRec's MLP activates after its last layer too.

Legend: B rows, X inputs, H outputs of a layer.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from recsys_core.ops.linear import linear, outer, product_dtype


class Mlp(nn.Sequential):
    """Linear-ReLU(-Dropout) for each hidden layer, then one Linear: [rows, inputs] → [rows, outputs].

    On a CPU the layers run as one step of autograd, which activates in place forward and backward. Under autocast it
    computes, and keeps what the backward needs, in autocast's type.
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
        return self.rest(input) if self.is_one_step(input) else super().forward(input)

    @torch.jit.unused
    def is_one_step(self, input: Tensor) -> bool:  # noqa: A002
        """Whether an input like this one goes through all layers in one step."""
        drops = self.training and any(isinstance(layer, nn.Dropout) for layer in self)
        plain = input.dim() != 2 or input.device.type != "cpu"
        return not (drops or plain or torch.compiler.is_compiling())

    @torch.jit.unused
    def rest(self, input_BX: Tensor, *, first: int = 0) -> Tensor:
        """Return the last layer's output from the input of the `first` Linear, in one step."""
        layers = self.layers[first:]
        return _Mlp.apply(input_BX, *(tensor for layer in layers for tensor in (layer.weight, layer.bias)))

    @property
    @torch.jit.unused
    def layers(self) -> list[nn.Linear]:
        """The layers that have weights."""
        return [layer for layer in self if isinstance(layer, nn.Linear)]


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
        kind = product_dtype(input_BX)
        weights, biases = ([tensor.to(kind) for tensor in parameters[start::2]] for start in (0, 1))
        outputs = [input_BX.to(kind)]
        for number, (weight_HX, bias_H) in enumerate(zip(weights, biases, strict=True), 1):
            outputs.append(linear(outputs[-1], weight_HX, bias_H, relu=number < len(weights)))
        ctx.save_for_backward(*outputs[:-1], *weights)
        return outputs[-1]

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        num_layers = len(ctx.saved_tensors) // 2
        inputs, weights = ctx.saved_tensors[:num_layers], ctx.saved_tensors[num_layers:]
        of_output_BH = gradients[0].to(weights[0].dtype)
        of_parameters: list[Tensor] = []
        for number in range(num_layers - 1, -1, -1):
            of_weight_HX = outer(of_output_BH, inputs[number])
            of_parameters = [of_weight_HX, of_output_BH.sum(dim=0), *of_parameters]
            if number:
                of_input_BX = linear(of_output_BH, weights[number].T)
                # An output of ReLU above 0 lets the gradient through.
                torch.ops.aten.threshold_backward.grad_input(of_input_BX, inputs[number], 0, grad_input=of_input_BX)
                of_output_BH = of_input_BX
        of_input_BX = linear(of_output_BH, weights[0].T) if ctx.needs_input_grad[0] else None
        return of_input_BX, *of_parameters
