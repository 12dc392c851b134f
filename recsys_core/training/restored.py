"""A trained model, out of its checkpoint: sharded over the ranks that measure it, or whole in one process."""

from collections import OrderedDict
from typing import TypeVar

from torch import nn

from recsys_core import artifacts, checkpoint, models, sharding
from recsys_core.artifacts import ComponentConfig
from recsys_core.distributed import World
from recsys_core.features import Engine
from recsys_core.models.base import RankingModel, RetrievalModel
from recsys_core.sharding import Config as Sharding

_M = TypeVar("_M", RankingModel, RetrievalModel)


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


def whole(config: ComponentConfig, engine: Engine, contract: type[_M], made: artifacts.Checkpoint) -> _M:
    """Return a model in this process, on the CPU; it is not to be trained.

    Raises:
        ValueError: see `models.build` and `checkpoint.load_weights`.
    """
    model = models.build(config, engine, contract)
    state = model.state_dict()
    checkpoint.load_weights(made.state, state, alone=True)
    model.load_state_dict(state)
    return model.eval()
