"""An exported module, loaded: a callable of named tensors, whatever format it was exported in."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from recsys_core.exported.files import PROGRAM, module_file
from recsys_core.integrity import first_line

Module = Callable[[dict[str, Tensor]], Tensor]


def read(path: Path | str) -> Module:
    """Return the module in a file, on the CPU.

    Raises:
        RuntimeError: it is damaged.
    """
    try:
        if Path(path).name == PROGRAM:
            return torch.export.load(path).module()
        return torch.jit.load(str(path))
    except (EOFError, zipfile.BadZipFile) as error:
        raise RuntimeError(first_line(error)) from None


def load(folder: Path) -> Module:
    """Return the module in `folder`, on the CPU.

    Raises:
        ValueError: there is none, or it is damaged; names the file.
    """
    path = module_file(folder)
    if not path.is_file():
        raise ValueError(f"{path}: missing, so {folder} is no exported module; export it again")
    try:
        return read(path)
    except RuntimeError as error:
        raise ValueError(f"{path}: damaged ({first_line(error)}); export it again") from None
