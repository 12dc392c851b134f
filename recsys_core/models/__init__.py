"""Models, one per file; `build` makes the one that a config names, with inputs as the feature engine gives them."""

from typing import TypeVar

import torch

from recsys_core import lookup
from recsys_core.artifacts import Frozen
from recsys_core.features import Engine
from recsys_core.models.base import RankingModel, RetrievalModel, TowerInputs

_M = TypeVar("_M", RankingModel, RetrievalModel)


def build(config: Frozen, engine: Engine, contract: type[_M], *, tables_device: str = "cpu") -> _M:
    """Return the model of `config.kind` on the CPU, its tables on `tables_device` (`meta` where they get sharded)."""
    refuse_other(config, contract)
    return lookup.component(__name__, _kind(config)).Model(
        config,
        engine.tables,
        query=TowerInputs(engine.sparse_features("query"), engine.dense_dim("query")),
        item=TowerInputs(engine.sparse_features("item"), engine.dense_dim("item")),
        tables_device=torch.device(tables_device),
    )


def refuse_other(config: Frozen, contract: type[RankingModel] | type[RetrievalModel]) -> None:
    """Check that `config` is of a model that keeps `contract`.

    Raises:
        ValueError: it is of the other kind; lists the ones that would do.
    """
    if not issubclass(lookup.component(__name__, _kind(config)).Model, contract):
        fitting = [k for k in lookup.kinds(__name__) if issubclass(lookup.component(__name__, k).Model, contract)]
        what = "embeds queries and items" if contract is RetrievalModel else "scores labelled rows"
        told = f"model.kind {_kind(config)!r}: not a model that {what}; use one of {', '.join(fitting)}"
        raise ValueError(told)  # noqa: TRY004 - the config is wrong, not a type


def _kind(config: Frozen) -> str:
    kind: str = config.kind  # pyright: ignore[reportAttributeAccessIssue] - every component's Config has one
    return kind
