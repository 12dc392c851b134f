"""The matrix product of layers with a backward of their own: outside of autograd, for forward and backward."""

import torch
from torch import Tensor


def linear(input_XY: Tensor, weight_ZY: Tensor, bias_Z: Tensor | None = None, *, relu: bool = False) -> Tensor:
    """Return input · weightᵀ + bias, [X, Z], with ReLU behind it if `relu`; both matrices may be transposed views.

    In float32 on CPUs by oneDNN, which takes what instructions the CPU has. MKL, which torch's own products take, stays
    with AVX2 on CPUs that are not Intel's, and needs twice the time where there is AVX-512. The operator is what
    torch.compile emits; torch has no public name for oneDNN's product of dense float32 tensors.
    """
    is_on_cpu = input_XY.device.type == "cpu" and torch.backends.mkldnn.is_available()
    if not is_on_cpu or input_XY.dtype != torch.float32 or not input_XY.numel():
        output_XZ = torch.nn.functional.linear(input_XY, weight_ZY, bias_Z)
        return output_XZ.relu_() if relu else output_XZ
    if not weight_ZY.T.is_contiguous():
        # Of a view with gaps oneDNN knows no fast product, but a reference one that takes a thousand times as long.
        weight_ZY = weight_ZY.contiguous()
    after = "relu" if relu else "none"
    return torch.ops.mkldnn._linear_pointwise(input_XY, weight_ZY, bias_Z, after, [], "")  # noqa: SLF001 - see above


def outer(left_BX: Tensor, right_BY: Tensor) -> Tensor:
    """Return leftᵀ · right, [X, Y]: a layer's gradient. oneDNN copies what is transposed, so that is the smaller."""
    if left_BX.shape[1] > right_BY.shape[1]:
        return linear(right_BY.T, left_BX.T).T.contiguous()
    return linear(left_BX.T, right_BY.T)
