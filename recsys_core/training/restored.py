"""A trained model, out of its checkpoint: sharded over the ranks that measure it, or whole in one process."""

import os
from collections import OrderedDict
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from recsys_core import artifacts, checkpoint, models, sharding
from recsys_core.artifacts import ComponentConfig
from recsys_core.distributed import World
from recsys_core.features import Engine
from recsys_core.models.base import RankingModel, RetrievalModel
from recsys_core.sharding import Config as Sharding

_M = TypeVar("_M", RankingModel, RetrievalModel)

# Tables that are larger, all together, are mapped.
MAPPED_BYTES = 1 << 28


def sharded(
    config: ComponentConfig,
    engine: Engine,
    contract: type[_M],
    made: artifacts.Checkpoint,
    section: Sharding,
    world: World,
    seed: int,
) -> nn.Module:
    """Return a model on all ranks, its tables as `section` says; it is not to be trained.

    Raises:
        ValueError: see `models.build` and `checkpoint.load_weights`.
    """
    model = models.build(config, engine, contract, tables_device="meta")
    found = sharding.shard(model, [table.name for table in engine.tables], section, world, seed)
    weights = found.state_dict()
    checkpoint.load_weights(made.state, weights)
    found.load_state_dict(OrderedDict(weights))
    return found.eval()


def whole(
    config: ComponentConfig,
    engine: Engine,
    contract: type[_M],
    made: artifacts.Checkpoint,
    aside: Path | None = None,
) -> _M:
    """Return a model in this process, on the CPU; it is not to be trained.

    With `aside`, a folder, large tables lie in files there, without names, and may be more than there is memory.

    Raises:
        ValueError: see `models.build` and `checkpoint.load_weights`; or there is no room in `aside`.
    """
    size = sum(table.num_embeddings * table.embedding_dim for table in engine.tables) * torch.float32.itemsize
    is_mapped = aside is not None and size > MAPPED_BYTES
    model = models.build(config, engine, contract, tables_device="meta" if is_mapped else "cpu")
    if is_mapped:
        assert aside is not None
        _map(model, aside)
    state = model.state_dict()
    checkpoint.load_weights(made.state, state, alone=True)
    model.load_state_dict(state)
    return model.eval()


def _map(model: nn.Module, aside: Path) -> None:
    """Give each table of a model, which has no memory yet, a file."""
    number = 0
    for module in model.modules():
        for name, table in [*module.named_parameters(recurse=False)]:
            if not table.is_meta:
                continue
            file, number = aside / f"table-{number:05d}", number + 1
            with file.open("wb") as opened:
                try:
                    os.posix_fallocate(opened.fileno(), 0, max(table.nbytes, 1))
                except OSError as error:
                    raise ValueError(f"{aside}: no room for a table of {table.nbytes:,} bytes ({error})") from None
            rows = torch.from_file(str(file), shared=True, size=table.numel(), dtype=table.dtype)
            # Its name goes now, and its bytes when no one holds the table: what kills this process leaves none.
            file.unlink()
            module.register_parameter(name, nn.Parameter(rows.view(table.shape), requires_grad=False))
