"""A module on its way out: scripted, saved, loaded back, and compared with what was trained."""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from recsys_core.artifacts import write_text
from recsys_core.exported.inputs import MODEL, SIGNATURE
from recsys_core.exported.parity import parity


def table_weights(tables: nn.Module) -> dict[str, Tensor]:
    """Return a model's tables [num_embeddings, dim] by name; their memory is the model's."""
    return {name.split(".")[-2]: weight for name, weight in tables.state_dict().items()}


def save(
    module: nn.Module,
    folder: Path,
    inputs: dict[str, Tensor],
    expected: Tensor,
    tolerance: float,
    *,
    called: str,
    signature: Mapping[str, object],
) -> float:
    """Write a module and its signature into `folder`; return how far it is from `expected` once it is loaded back.

    Raises:
        ValueError: it is farther than `tolerance`; the message names it as it is `called`.
    """
    folder.mkdir(exist_ok=True)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(module.eval()).save(str(folder / MODEL))
        found = torch.jit.load(str(folder / MODEL))(inputs)
    write_text(folder / SIGNATURE, json.dumps(signature, indent=2))
    return parity(called, found, expected, tolerance)
