"""An exported module, loaded: a callable of named tensors, whatever format it was exported in."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from recsys_core.exported.inputs import MODEL, PROGRAM

Module = Callable[[dict[str, Tensor]], Tensor]


def load(folder: Path) -> Module:
    """Return the module in `folder`, on the CPU.

    Raises:
        ValueError: there is none, or it is damaged; names the file.
    """
    script, program = folder / MODEL, folder / PROGRAM
    path = program if program.is_file() else script
    if not path.is_file():
        raise ValueError(f"{script}: missing, so {folder} is no exported module; export it again")
    try:
        if path == script:
            return torch.jit.load(str(script))
        return torch.export.load(program).module()
    except (RuntimeError, EOFError) as error:
        raise ValueError(f"{path}: damaged ({str(error).splitlines()[0]}); export it again") from None
