"""A module on its way out: scripted or exported, saved, loaded back, and compared with what was trained."""

import contextlib
import json
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.symbolic_shapes import ConstraintViolationError
from torch.jit import _recursive, _state

from recsys_core.artifacts import write_text
from recsys_core.exported import modules
from recsys_core.exported.files import MODEL, PROGRAM, SIGNATURE
from recsys_core.exported.parity import parity

_TRACED_ROWS = 4
_DEBUG = ".debug_pkl"
_CONSTANTS = re.compile(rb"(?:^  \w+ : Final\[.*\n)+", re.MULTILINE)


def table_weights(tables: nn.Module) -> dict[str, Tensor]:
    """Return a model's tables [num_embeddings, dim] by name; their memory is the model's."""
    return {name.split(".")[-2]: weight for name, weight in tables.state_dict().items()}


def eager(module: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Return what a module makes of its inputs before it is scripted."""
    with torch.no_grad():
        return module.eval()(inputs)


def save(
    module: nn.Module,
    folder: Path,
    inputs: dict[str, Tensor],
    expected: Tensor,
    tolerance: float,
    *,
    called: str,
    signature: Mapping[str, object],
    form: str = "torchscript",
) -> float:
    """Write a module and its signature into `folder`; return how far it is from `expected` once it is loaded back.

    `form` is `torchscript` or `pt2`, a program of torch.export. The same module gives the same bytes.

    Raises:
        ValueError: it is farther than `tolerance`, or torch cannot export it; the message names it as it is `called`.
    """
    folder.mkdir(exist_ok=True)
    write_text(folder / SIGNATURE, json.dumps(signature, indent=2, default=str))
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        if form == "pt2":
            _save_program(module.eval(), folder / PROGRAM, inputs, called)
        else:
            _save_script(module.eval(), folder / MODEL)
        loaded = modules.load(folder)
        found = loaded(inputs)
        difference = parity(called, found, expected, tolerance)
        # What was traced with several rows must do for one, too.
        one = _first_row(inputs)
        return max(difference, parity(f"{called} of one row", loaded(one), expected[:1], tolerance))


def _save_script(module: nn.Module, path: Path) -> None:
    """Write it without what torch notes for tracebacks, which holds the paths of this machine's sources."""
    whole = path.with_name(f".{path.name}.whole")
    with _first_names():
        torch.jit.script(module).save(str(whole))
    records = modules.Records(whole)
    writer = torch._C.PyTorchFileWriter(str(path))  # noqa: SLF001
    for name in records.names:
        if name.endswith(_DEBUG) or name.startswith(".data/"):
            continue
        if records.is_table(name):
            # From file to file: no copy of a table is in memory.
            first, num_bytes = records.place(name)
            writer.write_record(name, records.bytes.data_ptr() + first, num_bytes)
            continue
        # torch has the constants of a class in a set, so in another order in each process.
        held = records.read(name)
        held = _CONSTANTS.sub(_sorted_lines, held) if name.endswith(".py") else held
        writer.write_record(name, held, len(held))
    writer.write_end_of_file()
    whole.unlink()


def _sorted_lines(found: re.Match[bytes]) -> bytes:
    return b"".join(sorted(found[0].splitlines(keepends=True)))


@contextlib.contextmanager
def _first_names() -> Iterator[None]:
    """Inside, classes are called as where nothing was scripted before: their names are part of the bytes."""
    before = _state._python_cu, _recursive.concrete_type_store  # noqa: SLF001
    _state._python_cu = torch._C.CompilationUnit()  # noqa: SLF001
    _recursive.concrete_type_store = _recursive.ConcreteTypeStore()
    try:
        yield
    finally:
        _state._python_cu, _recursive.concrete_type_store = before  # noqa: SLF001


def _save_program(module: nn.Module, path: Path, inputs: Mapping[str, Tensor], called: str) -> None:
    """Trace the module with made-up inputs of the same kinds: a program holds those that it was traced with."""
    made_up = {name: _made_up(name, tensor) for name, tensor in inputs.items()}
    auto = torch.export.Dim.AUTO
    shapes: Any = ({name: {0: auto} for name in made_up},)
    try:
        program = torch.export.export(_OfDict(module), (made_up,), dynamic_shapes=shapes)
    except (RuntimeError, ConstraintViolationError) as error:
        first = str(error).strip().splitlines()[0]
        raise ValueError(
            f"the {called} cannot be exported by torch.export ({first}); set export.format to torchscript"
        ) from None
    for graph in program.graph_module.modules():
        for node in graph.graph.nodes if isinstance(graph, torch.fx.GraphModule) else ():
            # Where it was traced: lines of this machine's sources.
            node.meta.pop("stack_trace", None)
    torch.export.save(program, path)


class _OfDict(nn.Module):
    """A module over a dict of tensors, whose parameters keep their names."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return self.module(inputs)


def _made_up(name: str, tensor: Tensor) -> Tensor:
    """Return an input of `_TRACED_ROWS` rows with two values each."""
    if name.endswith(".lengths"):
        return torch.full((_TRACED_ROWS,), 2, dtype=tensor.dtype)
    count = 2 * _TRACED_ROWS if name.endswith((".values", ".weights")) else _TRACED_ROWS
    return torch.zeros((count, *tensor.shape[1:]), dtype=tensor.dtype)


def _first_row(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the inputs of the first row alone."""
    one: dict[str, Tensor] = {}
    for name, tensor in inputs.items():
        feature, _, part = name.rpartition(".")
        count = int(inputs[f"{feature}.lengths"][0]) if part in ("values", "weights") else 1
        one[name] = tensor[:count]
    return one
