"""Exported modules: where their files lie, and what they take. Free of TorchRec, which takes seconds to import."""

import functools

import numpy as np
import torch
from torch import Tensor

from recsys_core.features import Encoded

# Matrix products of fewer rows take other ways through the processor, which round otherwise.
_LEAST_ROWS = 16


def tower_inputs(encoded: Encoded) -> dict[str, Tensor]:
    """Return one side's rows as its tower takes them: `dense`, and `<name>.values` / `<name>.lengths`, both int64.

    A weighted feature has `<name>.weights` as well, float32; of a sequence of numbers `<name>.values` are float32
    [N, D].
    """
    inputs = {"dense": torch.from_numpy(encoded.dense)}
    for name, feature in (*encoded.sparse.items(), *encoded.numbers.items()):
        inputs[f"{name}.values"] = _tensor(feature.values)
        inputs[f"{name}.lengths"] = _tensor(feature.lengths.astype(np.int64, copy=False))
        if feature.weights is not None:
            inputs[f"{name}.weights"] = _tensor(feature.weights)
    return inputs


def filled(inputs: dict[str, Tensor], num_rows: int) -> dict[str, Tensor]:
    """Return inputs of at least 16 rows, empty ones added at the end, so that a row gets the same bits in any company.

    What the module makes of the added rows is to be left out.
    """
    missing = _LEAST_ROWS - num_rows
    if missing <= 0:
        return inputs
    found = dict(inputs)
    for name, tensor in inputs.items():
        if name == "dense" or name.endswith(".lengths"):
            found[name] = torch.cat([tensor, _zeros((missing, *tensor.shape[1:]), tensor.dtype)])
    return found


@functools.lru_cache(maxsize=256)
def _zeros(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return zeros that no one writes to: a served row asks for a dozen of the same."""
    return torch.zeros(shape, dtype=dtype)


def _tensor(array: np.ndarray) -> Tensor:
    """Return the array as a tensor; one that Arrow holds, and that is read-only, is copied."""
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def ranker_inputs(query: Encoded, item: Encoded) -> dict[str, Tensor]:
    """Return rows that have both sides as a ranker takes them: as towers do, the query's dense fields first."""
    dense = torch.from_numpy(np.concatenate([query.dense, item.dense], axis=1))
    return tower_inputs(query) | tower_inputs(item) | {"dense": dense}
