"""The safetensors format: eight bytes of header length, a JSON header, the tensors' bytes. Nothing in it can run."""

import json
import struct
from pathlib import Path
from typing import Any

import torch

_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in _TYPES.items()}
_ALIGNMENT_BYTES = 8


def save(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Write `tensors` to `path`."""
    header: dict[str, Any] = {}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % _ALIGNMENT_BYTES)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors.values():
            file.write(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())


def load(path: Path) -> dict[str, torch.Tensor]:
    """Read the tensors in `path`.

    Raises:
        ValueError: not of this format, or damaged; names what does not fit.
    """
    content = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    try:
        header = json.loads(content[8:start]) if start <= len(content) else None
    except ValueError:
        header = None
    if not isinstance(header, dict):
        raise ValueError(f"{path}: no safetensors file: its header is no JSON")  # noqa: TRY004
    tensors: dict[str, torch.Tensor] = {}
    for name, about in header.items():
        if name == "__metadata__":
            continue
        try:
            dtype, (begin, end), shape = _TYPES[about["dtype"]], about["data_offsets"], torch.Size(about["shape"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: tensor {name} has a header that is not understood: {about}") from error
        if end - begin != shape.numel() * dtype.itemsize or not 0 <= begin <= end <= len(content) - start:
            raise ValueError(f"{path}: tensor {name} does not lie at {begin}…{end}; the file is damaged")
        part = content[start + begin : start + end]
        tensors[name] = torch.frombuffer(part, dtype=dtype).view(shape) if part else torch.empty(shape, dtype=dtype)
    return tensors
