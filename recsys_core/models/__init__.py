"""Models, one per file; `build` makes the one that a config names, with inputs as the feature engine gives them."""

from typing import TYPE_CHECKING, TypeVar

from recsys_core import lookup
from recsys_core.artifacts import ComponentConfig, code_version, digest_of
from recsys_core.features import Engine, Side

if TYPE_CHECKING:
    from recsys_core.models.base import RankingModel, RetrievalModel, TowerInputs

    _M = TypeVar("_M", RankingModel, RetrievalModel)


def build(config: ComponentConfig, engine: Engine, contract: "type[_M]", *, tables_device: str = "cpu") -> "_M":
    """Return the model of `config.kind` on the CPU, its tables on `tables_device` (`meta` where they get sharded).

    Raises:
        ValueError: the model keeps another contract, or cannot take the features.
    """
    import torch

    from recsys_core.models.base import RankingModel

    model = lookup.keeping(__name__, config.kind, contract, does=contract.DOES)
    query, item = (_inputs(engine, side) for side in ("query", "item"))
    reads = issubclass(model, RankingModel) and model.reads_number_sequences
    if not reads and (unread := [*query.numbers, *item.numbers]):
        raise ValueError(
            f"feature {unread[0].name!r}: a sequence of numbers (kind: raw, pooling: none), and {config.kind} reads "
            "none; give it boundaries or num_buckets and pool its ids, make one number of it, or use model.kind: "
            "multi_tower_din"
        )
    return model(config, engine.tables, query=query, item=item, tables_device=torch.device(tables_device))


def architecture(config: ComponentConfig, engine: Engine, *optimizers: str) -> str | None:
    """Return what is the same for models whose dense weights are as many and stand for the same, None if unknown.

    It is a digest of the config and of what the engine gives, and of the kinds of the `optimizers`. A model that is
    no part of this package has none: its code may change without a new version.
    """
    if "." in config.kind:
        return None
    tables = [[table.name, table.embedding_dim, table.dtype] for table in engine.tables]
    inputs = [
        [engine.sparse_features(side), engine.dense_features(side), engine.number_sequences(side)]
        for side in ("query", "item")
    ]
    return digest_of([config.model_dump(mode="json"), tables, inputs, optimizers, code_version()])


def _inputs(engine: Engine, side: Side) -> "TowerInputs":
    from recsys_core.models.base import TowerInputs

    return TowerInputs(
        engine.sparse_features(side),
        engine.dense_dim(side),
        engine.dense_features(side),
        engine.number_sequences(side),
    )
