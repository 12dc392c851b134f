"""An exported module, loaded: a callable of named tensors, whatever format it was exported in."""

import ctypes
import io
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recsys_core.exported.files import PROGRAM, module_file
from recsys_core.integrity import first_line

Module = Callable[[dict[str, Tensor]], Tensor]

# Of larger files the tables stay where they are.
MAPPED_BYTES = 1 << 28
# What is a table, and no layer's weights.
_TABLE_BYTES = 1 << 20
_MARK_BYTES = 8


def read(path: Path | str) -> Module:
    """Return the module in a file, on the CPU.

    The tables of a large script are mapped: they take the memory that there is, and are read as they are looked up.

    Raises:
        RuntimeError: it is damaged.
    """
    try:
        if Path(path).name == PROGRAM:
            return torch.export.load(path).module()
        if Path(path).is_file() and Path(path).stat().st_size > MAPPED_BYTES:
            return _mapped(Path(path))
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


class Records:
    """The records of a script's file; those of tables are seen in it, and not read."""

    def __init__(self, path: Path) -> None:
        """Open it.

        Raises:
            RuntimeError: it is no file of records.
        """
        self._reader: Any = torch._C.PyTorchFileReader(str(path))  # noqa: SLF001
        self.names: list[str] = self._reader.get_all_records()
        mapped = np.memmap(path, np.uint8, "r")
        with warnings.catch_warnings():
            # It cannot be written to, and nothing does.
            warnings.simplefilter("ignore", UserWarning)
            self.bytes = torch.from_numpy(mapped)

    def is_table(self, name: str) -> bool:
        """Whether a record is a tensor of some size."""
        return name.startswith("data/") and self._reader.get_record_size(name) > _TABLE_BYTES

    def place(self, name: str) -> tuple[int, int]:
        """Return where a record begins in the file, and how many bytes it has."""
        return self._reader.get_record_offset(name), self._reader.get_record_size(name)

    def read(self, name: str) -> bytes:
        """Return a record."""
        return self._reader.get_record(name)


def _mapped(path: Path) -> Module:
    """Load a script of which every table is 8 bytes, its number, and put what is in the file in the place of each."""
    records, tables = Records(path), list[int]()
    small = io.BytesIO()
    writer = torch._C.PyTorchFileWriter(small)  # noqa: SLF001
    for name in records.names:
        held = records.read(name) if not records.is_table(name) else len(tables).to_bytes(_MARK_BYTES, "little")
        if records.is_table(name):
            tables.append(records.place(name)[0])
        writer.write_record(name, held, len(held))
    writer.write_end_of_file()
    small.seek(0)
    script = torch.jit.load(small)
    found: set[int] = set()
    for tensor in script.state_dict(keep_vars=True).values():
        storage = tensor.untyped_storage()
        if storage.nbytes() <= _TABLE_BYTES:
            continue
        number = ctypes.c_int64.from_address(storage.data_ptr()).value
        found.add(number)
        first = tables[number] // tensor.element_size() + tensor.storage_offset()
        there = torch.empty(0, dtype=tensor.dtype)
        tensor.data = there.set_(records.bytes.untyped_storage(), first, tensor.shape, tensor.stride())
    # A tensor that is no parameter and no buffer would have no more than its number.
    return script if len(found) == len(tables) else torch.jit.load(str(path))
