"""`train.compile`: torch's compiler over the dense parts of a model; its tables stay as they are.

A part is compiled in place when it is first called: its parameters keep their names, so that a checkpoint and an export
do not know of it. Sizes of batches are symbols from the start. The last, smaller batch then compiles nothing anew, and
a training that is taken up again computes with the same kernels as one that never stopped.
"""

from collections.abc import Iterable

import torch
from torch import nn


def compile_in_place(parts: Iterable[nn.Module], device: torch.device) -> None:
    """Let `parts` be compiled for `device`.

    Raises:
        ValueError: there is no compiler for it.
    """
    # They take seconds to import.
    from torch._dynamo import config as tracing
    from torch._inductor import config as generating
    from torch.fx.experimental import _config as shapes

    _require_compiler(device)
    # The parts are small. Worker processes would outlive a rank that is killed, and another split at the borders of
    # gradient buckets would make many small graphs of one.
    generating.compile_threads, tracing.optimize_ddp = 1, False
    # A batch of as many rows as a layer is wide would else be taken for as large as that layer for ever.
    shapes.use_duck_shape = False
    for part in parts:
        part.compile(dynamic=True)


def _require_compiler(device: torch.device) -> None:
    from torch._inductor import config, cpp_builder
    from torch._inductor.exc import InvalidCxxCompiler
    from torch.utils._triton import has_triton

    try:
        cpp_builder.get_cpp_compiler()
    except InvalidCxxCompiler:
        searched = ", ".join(filter(None, config.cpp.cxx))
        raise ValueError(
            f"train.compile: no C++ compiler, looked for {searched}; install one (Debian: apt-get install g++), name "
            "it in the environment variable CXX, or set train.compile=false"
        ) from None
    if device.type == "cuda" and not has_triton():
        raise ValueError(
            "train.compile: torch has no Triton for this GPU; install torch's CUDA build with it, or set "
            "train.compile=false"
        )
