"""Models, one per file; `build` makes the one that a config names, with inputs as the feature engine gives them."""

from typing import TypeVar

import torch

from recsys_core import lookup
from recsys_core.artifacts import Frozen
from recsys_core.features import Engine, Side
from recsys_core.models.base import RankingModel, RetrievalModel, TowerInputs

_M = TypeVar("_M", RankingModel, RetrievalModel)


def build(config: Frozen, engine: Engine, contract: type[_M], *, tables_device: str = "cpu") -> _M:
    """Return the model of `config.kind` on the CPU, its tables on `tables_device` (`meta` where they get sharded).

    Raises:
        ValueError: the model keeps another contract, or cannot take the features.
    """
    refuse_other(config, contract)
    model = lookup.component(__name__, _kind(config)).Model
    query, item = (_inputs(engine, side) for side in ("query", "item"))
    reads = contract is RankingModel and model.reads_number_sequences
    if not reads and (unread := [*query.numbers, *item.numbers]):
        raise ValueError(
            f"feature {unread[0].name!r}: a sequence of numbers (kind: raw, pooling: none), and {_kind(config)} reads "
            "none; give it boundaries or num_buckets and pool its ids, make one number of it, or use model.kind: "
            "multi_tower_din"
        )
    return model(config, engine.tables, query=query, item=item, tables_device=torch.device(tables_device))


def _inputs(engine: Engine, side: Side) -> TowerInputs:
    return TowerInputs(
        engine.sparse_features(side),
        engine.dense_dim(side),
        engine.dense_features(side),
        engine.number_sequences(side),
    )


def refuse_other(config: Frozen, contract: type[RankingModel] | type[RetrievalModel]) -> None:
    """Check that `config` is of a model that keeps `contract`.

    Raises:
        ValueError: it is of the other kind; lists the ones that would do.
    """
    if not issubclass(lookup.component(__name__, _kind(config)).Model, contract):
        fitting = [k for k in lookup.kinds(__name__) if issubclass(lookup.component(__name__, k).Model, contract)]
        what = "embeds queries and items" if contract is RetrievalModel else "scores labelled rows"
        message = f"model.kind {_kind(config)!r}: not a model that {what}; use one of {', '.join(fitting)}"
        raise ValueError(message)  # noqa: TRY004 - the config is wrong, not a type


def _kind(config: Frozen) -> str:
    kind: str = config.kind  # pyright: ignore[reportAttributeAccessIssue] - every component's Config has one
    return kind
