"""Continuing tables whose rows have changed hands: the ids that were there keep their rows, the others start anew.

A checkpoint's section `owners` holds, for each table of dynamic ids, int64 [K, 2]: the rows that were given out, and
whose each was. Legend: K rows that are given out.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.distributed._shard.sharded_tensor.api import ShardedTensor

from recsys_core import checkpoint
from recsys_core.checkpoint import chunks, files, storage
from recsys_core.sections.checkpoint import locate

SECTION = "owners"


def inherit(directory: Path, state: dict[str, Any], owners: Mapping[str, torch.Tensor]) -> None:
    """Fill `state` in place from the checkpoint in `directory`, but for rows that have another owner there.

    These, and the rows that a table has more than it had there, keep what `state` has: their start weights, and an
    optimizer that has seen nothing.

    Raises:
        ValueError: the checkpoint is of another model; a table of it is larger than now.
    """
    before = _read(directory) if owners else {}
    kept: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    grown: set[str] = set()
    tensors = chunks.flat(state)
    for table, now in owners.items():
        fresh = torch.from_numpy(changed_rows(before.get(table), now.numpy()))
        for key, tensor in tensors.items():
            if isinstance(tensor, ShardedTensor) and f".{table}.weight" in key:
                grown.add(key)
                for shard in tensor.local_shards():
                    first = shard.metadata.shard_offsets[0]
                    mine = fresh[(fresh >= first) & (fresh < first + len(shard.tensor))] - first
                    mine = mine.to(shard.tensor.device)
                    kept.append((shard.tensor, mine, shard.tensor.detach()[mine].clone()))
    checkpoint.load(directory, state, grown=grown)
    with torch.no_grad():
        for tensor, rows, values in kept:
            tensor[rows] = values


def refuse_other(path: Path, names: Collection[str], owners: Mapping[str, torch.Tensor]) -> None:
    """Check that weights taken over by their names alone are of tables whose rows were the same ids' at `path`.

    Raises:
        ValueError: rows of a table among the parameters `names` have other owners there.
    """
    before = _read(locate(path)) if owners else {}
    for table, now in owners.items():
        taken = [name for name in names if f".{table}.weight" in name]
        if taken and len(changed_rows(before.get(table), now.numpy())):
            raise ValueError(
                f"train.fine_tune_from: {taken[0]} has dynamic ids, and its rows are of other ids at {path}; name it "
                "in exclude, or continue a release, which moves no id"
            )


def changed_rows(before: np.ndarray | None, now: np.ndarray) -> np.ndarray:
    """int64 [K]: the rows of `now` that had no owner before, or another one."""
    rows, ids = now[:, 0], now[:, 1]
    if before is None or not len(before):
        return rows
    place = np.searchsorted(before[:, 0], rows).clip(max=len(before) - 1)
    same = (before[place, 0] == rows) & (before[place, 1] == ids)
    return rows[~same]


def _read(directory: Path) -> dict[str, np.ndarray]:
    held = files.empty_state(directory, SECTION)
    storage.load(directory, {SECTION: held}, alone=True)
    return {table: tensor.numpy() for table, tensor in held.items()}
