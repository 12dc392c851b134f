"""The matrix product of layers with a backward of their own: outside of autograd, for forward and backward."""

import functools

import torch
from torch import Tensor


def product_dtype(input: Tensor) -> torch.dtype:  # noqa: A002 - as torch names it
    """Return the type that products of `input` are computed in: that of autocast where it is on, else its own."""
    device = input.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else input.dtype


def linear(
    input_XY: Tensor,
    weight_ZY: Tensor,
    bias_Z: Tensor | None = None,
    *,
    relu: bool = False,
    plus_XZ: Tensor | None = None,
) -> Tensor:
    """Return input · weightᵀ + bias, [X, Z], all of one type; both matrices may be transposed views.

    With ReLU behind it if `relu`, or else with `plus_XZ` added to it.

    On CPUs by oneDNN, which takes what instructions the CPU has. MKL, which torch's own products of float32 take, stays
    with AVX2 on CPUs that are not Intel's, and needs twice the time where there is AVX-512. The operator is what
    torch.compile emits; torch has no public name for oneDNN's product of dense tensors with what comes behind it.
    """
    assert plus_XZ is None or not relu
    if input_XY.device.type != "cpu" or not _is_onednn(input_XY.dtype) or not input_XY.numel():
        output_XZ = torch.nn.functional.linear(input_XY, weight_ZY, bias_Z)
        if plus_XZ is not None:
            output_XZ += plus_XZ
        return output_XZ.relu_() if relu else output_XZ
    if not weight_ZY.T.is_contiguous():
        # Of a view with gaps oneDNN knows no fast product, but a reference one that takes a thousand times as long.
        weight_ZY = weight_ZY.contiguous()
    onednn = torch.ops.mkldnn._linear_pointwise  # noqa: SLF001 - see above
    if plus_XZ is not None:
        return onednn.binary(input_XY, plus_XZ, weight_ZY, bias_Z, "add")
    return onednn(input_XY, weight_ZY, bias_Z, "relu" if relu else "none", [], "")


def outer(left_BX: Tensor, right_BY: Tensor) -> Tensor:
    """Return leftᵀ · right, [X, Y]: a layer's gradient. oneDNN copies what is transposed, so that is the smaller."""
    if left_BX.shape[1] > right_BY.shape[1]:
        return linear(right_BY.T, left_BX.T).T.contiguous()
    return linear(left_BX.T, right_BY.T)


@functools.cache
def _is_onednn(kind: torch.dtype) -> bool:
    """Whether oneDNN multiplies numbers of this type on this CPU."""
    if not torch.backends.mkldnn.is_available():
        return False
    if kind == torch.bfloat16:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()  # noqa: SLF001
    if kind == torch.float16:
        return torch.ops.mkldnn._is_mkldnn_fp16_supported()  # noqa: SLF001
    return kind == torch.float32
