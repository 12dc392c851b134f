"""What there must be to compile with; that it computes the same is shown for every model in tests/contract."""

import pytest
import torch
from torch import nn
from torch._inductor import config

from recsys_core.training import compiling


def test_without_a_compiler_nothing_begins():
    part = nn.Linear(2, 1)
    message = (
        r"train\.compile: no C\+\+ compiler, looked for /no/such/g\+\+; install one .* or set train\.compile=false"
    )
    with config.patch({"cpp.cxx": (None, "/no/such/g++")}), pytest.raises(ValueError, match=message):
        compiling.compile_in_place([part], torch.device("cpu"))
    assert part._compiled_call_impl is None
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match=r"train\.compile: torch has no Triton for this GPU"):
            compiling.compile_in_place([part], torch.device("cuda"))
