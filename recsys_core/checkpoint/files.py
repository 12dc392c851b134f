"""Checkpoints as files: what is in one, how two differ, and ways from and to the files of other programs."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from recsys_core.artifacts import Frozen
from recsys_core.checkpoint import safetensors, storage

_TORCH = (".pt", ".pth")
_SAFETENSORS = ".safetensors"


class TensorRecord(Frozen):
    """One tensor of a checkpoint; `key` starts with its section, as in `model.query.layers.0.weight`."""

    key: str
    shape: tuple[int, ...]
    dtype: str
    num_bytes: int


class Difference(Frozen):
    """A key whose tensors differ between two checkpoints, or that one of them (`only_in`: 1 or 2) has alone."""

    key: str
    only_in: int | None = None
    shapes: tuple[tuple[int, ...], tuple[int, ...]] | None = None
    max_absolute: float | None = None
    root_mean_square: float | None = None


def describe(directory: Path) -> list[TensorRecord]:
    """Return every tensor of a checkpoint, sorted by key; reads only its metadata."""
    return [
        TensorRecord(key=key, shape=held.shape, dtype=held.dtype, num_bytes=held.num_bytes)
        for key, held in sorted(storage.layout(directory).tensors.items())
    ]


def diff(first: Path, second: Path) -> Iterator[Difference]:
    """Yield the keys in which two checkpoints differ, and by how much; holds one tensor of each at a time."""
    one, two = ({record.key: record for record in describe(directory)} for directory in (first, second))
    for key in sorted({*one, *two}):
        if key not in one or key not in two:
            yield Difference(key=key, only_in=1 if key in one else 2)
        elif one[key].shape != two[key].shape:
            yield Difference(key=key, shapes=(one[key].shape, two[key].shape))
        else:
            apart = (_read(first, one[key]).double() - _read(second, two[key]).double()).abs()
            # A difference that is no number is one: `nan != 0`.
            if apart.numel() and float(apart.max()) != 0:
                yield Difference(
                    key=key, max_absolute=float(apart.max()), root_mean_square=float(apart.square().mean().sqrt())
                )


def read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """Read the state dict in a `.pt`, `.pth` or `.safetensors` file, without running code that it may hold.

    Raises:
        ValueError: another suffix, or something else than tensors by name in it.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    if path.suffix == _SAFETENSORS:
        return safetensors.load(path)
    if path.suffix not in _TORCH:
        raise ValueError(f"{path}: a state dict is a file .pt, .pth or .safetensors")
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, ValueError) as error:
        first, _, _ = str(error).partition("\n")
        raise ValueError(f"{path}: no state dict of torch's ({first})") from None
    except Exception as error:
        if type(error).__name__ != "UnpicklingError":
            raise
        raise ValueError(
            f"{path}: holds more than tensors, and reading that could run its code; save model.state_dict() alone"
        ) from None
    if not isinstance(held, dict) or not all(isinstance(value, torch.Tensor) for value in held.values()):
        raise ValueError(f"{path}: not tensors by name; save model.state_dict() alone")
    return held


def write_state_dict(path: Path, weights: dict[str, torch.Tensor]) -> None:
    """Write `weights` to a `.pt`, `.pth` or `.safetensors` file, which appears when it is whole."""
    if path.suffix not in (*_TORCH, _SAFETENSORS):
        raise ValueError(f"{path}: write a file .pt, .pth or .safetensors")
    aside = path.with_name(f".{path.name}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == _SAFETENSORS:
        safetensors.save(aside, weights)
    else:
        torch.save(weights, aside)
    aside.rename(path)


def empty_state(directory: Path, section: str) -> dict[str, torch.Tensor]:
    """Return tensors for everything in one section of a checkpoint, by name without the section, to be filled."""
    prefix = f"{section}."
    return {
        record.key.removeprefix(prefix): torch.empty(record.shape, dtype=getattr(torch, record.dtype))
        for record in describe(directory)
        if record.key.startswith(prefix)
    }


def num_bytes(directory: Path) -> int:
    """Return what a checkpoint takes on the disk."""
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())


def keep_newest(directory: Path, count: int) -> None:
    """Delete the checkpoints `step-<n>` in `directory` but the `count` newest, and what was left half-written."""
    steps = sorted(directory.glob("step-*"), key=lambda path: int(path.name.removeprefix("step-")))
    for path in [*steps[:-count], *directory.glob(".step-*")]:
        shutil.rmtree(path)


def _read(directory: Path, record: TensorRecord) -> torch.Tensor:
    state: dict[str, Any] = {record.key: torch.empty(record.shape, dtype=getattr(torch, record.dtype))}
    storage.load(directory, state, alone=True)
    return state[record.key]
