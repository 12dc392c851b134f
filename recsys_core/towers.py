"""Exported modules: where their files lie, and what they take. Free of TorchRec, which takes seconds to import."""

import numpy as np
import torch
from torch import Tensor

from recsys_core.features import Encoded

MODEL, SIGNATURE = "model.pt", "signature.json"


def tower_inputs(encoded: Encoded) -> dict[str, Tensor]:
    """Return one side's rows as its tower takes them: `dense`, and `<name>.values` / `<name>.lengths`, both int64."""
    inputs = {"dense": torch.from_numpy(encoded.dense)}
    for name, feature in encoded.sparse.items():
        inputs[f"{name}.values"] = _tensor(feature.values)
        inputs[f"{name}.lengths"] = _tensor(feature.lengths.astype(np.int64, copy=False))
    return inputs


def ranker_inputs(query: Encoded, item: Encoded) -> dict[str, Tensor]:
    """Return rows that have both sides as a ranker takes them: as towers do, the query's dense fields first."""
    dense = torch.from_numpy(np.concatenate([query.dense, item.dense], axis=1))
    return tower_inputs(query) | tower_inputs(item) | {"dense": dense}


def _tensor(values: np.ndarray) -> Tensor:
    """Share the memory of `values`, unless it is that of an Arrow column (ids encoded upstream), which is read-only."""
    return torch.from_numpy(values if values.flags.writeable else values.copy())
