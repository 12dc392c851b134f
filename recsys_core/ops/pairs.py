"""The dot products of all pairs of vectors by one pass over an example (`pairs.cpp`), forward and backward.

Legend: B examples, K vectors, D width, P = K (K - 1) / 2 pairs, L kept numbers, S ≥ L + P columns of the outputs.
"""

import ctypes
import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from recsys_core.ops import native

_NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


class _Shape(ctypes.Structure):
    """As in `pairs.cpp`."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("num_rows", "num_parts", "num_vectors", "width", "kept", "stride")),
        ("widths", ctypes.POINTER(ctypes.c_int64)),
        ("num_threads", ctypes.c_int),
    )


def are_offered(kind: torch.dtype) -> bool:
    """Whether the kernels are there, for outputs of this type."""
    return kind in _NAMES and native.library("pairs") is not None


def multiply(parts: Sequence[Tensor], num_vectors: int, kept: int, *, into_BS: Tensor) -> None:
    """Write the first `kept` numbers of the `parts` and behind them the pairs, and 0 in what columns are left.

    `parts` make K·D numbers of float32 side by side, each [B, …] and contiguous; so is `into_BS`, of a type for which
    the kernels `are_offered`. Pair (k, j) with j < k stands at k (k - 1) / 2 + j.
    """
    shape = _shape(parts, num_vectors, kept, into_BS)
    _kernel("multiply", into_BS.dtype)(ctypes.byref(shape), _places(parts), into_BS.data_ptr())


def differentiate(
    parts: Sequence[Tensor], num_vectors: int, kept: int, of_outputs_BS: Tensor, *, into: Sequence[Tensor]
) -> None:
    """Write the gradient of the `parts`, of what `multiply` made of them; `into` are laid out as they are."""
    shape = _shape(parts, num_vectors, kept, of_outputs_BS)
    assert all(part.is_contiguous() and part.shape == own.shape for part, own in zip(into, parts, strict=True))
    kernel = _kernel("differentiate", of_outputs_BS.dtype)
    kernel(ctypes.byref(shape), _places(parts), of_outputs_BS.data_ptr(), _places(into))


def _shape(parts: Sequence[Tensor], num_vectors: int, kept: int, outputs_BS: Tensor) -> _Shape:
    widths = [part.shape[1] for part in parts]
    width, stride = sum(widths) // num_vectors, outputs_BS.shape[1]
    assert sum(widths) == width * num_vectors, (widths, num_vectors)
    assert kept + num_vectors * (num_vectors - 1) // 2 <= stride, (kept, num_vectors, stride)
    assert all(part.dtype == torch.float32 and part.is_contiguous() for part in parts), parts
    assert outputs_BS.is_contiguous() and all(len(part) == len(outputs_BS) for part in parts), parts  # noqa: PT018
    held = (ctypes.c_int64 * len(widths))(*widths)
    return _Shape(len(outputs_BS), len(parts), num_vectors, width, kept, stride, held, torch.get_num_threads())


def _places(tensors: Sequence[Tensor]) -> Any:
    return (ctypes.c_void_p * len(tensors))(*(tensor.data_ptr() for tensor in tensors))


@functools.cache
def _kernel(name: str, kind: torch.dtype) -> Any:
    kernels = native.library("pairs")
    assert kernels is not None
    kernel = kernels[f"{name}_{_NAMES[kind]}"]
    kernel.restype = None
    kernel.argtypes = [ctypes.c_void_p] * (4 if name == "differentiate" else 3)
    return kernel
