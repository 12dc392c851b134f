"""Models, one per file; `build` makes the one that a config names, with inputs as the feature engine gives them."""

import torch

from recsys_core import lookup
from recsys_core.artifacts import Frozen
from recsys_core.features import Engine
from recsys_core.models.base import RetrievalModel, TowerInputs


def build(config: Frozen, engine: Engine, *, tables_device: str = "cpu") -> RetrievalModel:
    """Return the model of `config.kind` on the CPU, its tables on `tables_device` (`meta` where they get sharded)."""
    kind: str = config.kind  # pyright: ignore[reportAttributeAccessIssue] - every component's Config has one
    return lookup.component(__name__, kind).Model(
        config,
        engine.tables,
        query=TowerInputs(engine.sparse_features("query"), engine.dense_dim("query")),
        item=TowerInputs(engine.sparse_features("item"), engine.dense_dim("item")),
        tables_device=torch.device(tables_device),
    )
