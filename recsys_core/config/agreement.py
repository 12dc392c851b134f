"""What no section can check alone: that features, model and training go together, before any data is read."""

import torch

from recsys_core import models, optim
from recsys_core.artifacts import Frozen
from recsys_core.config import limits
from recsys_core.features import Config as Features
from recsys_core.features import Engine
from recsys_core.gate import Config as Gate
from recsys_core.hitrate import Config as HitRate
from recsys_core.index import Config as Index
from recsys_core.launch import Config as Launch
from recsys_core.models.base import RankingModel, RetrievalModel
from recsys_core.sharding import pretrained
from recsys_core.train import Config as Train


def check(
    features: Features,
    model: Frozen,
    contract: type[RankingModel] | type[RetrievalModel],
    train: Train,
    launch: Launch,
) -> None:
    """Build the model without any memory, and look for the tables that `train` names.

    Raises:
        ValueError: the model is of another contract, does not take the features or is larger than the ranks, a table is
            not there, it cannot be trained on `train.sharding.device`, or the file that a table starts from does not
            serve it.
    """
    engine = Engine.build(features)
    pretrained.check(engine)
    with torch.device("meta"):
        built = models.build(model, engine, contract, tables_device="meta")  # pyright: ignore[reportArgumentType]
    limits.check_memory(engine.tables, built, launch.world_size)
    optim.refuse_unfit(train.sparse_optimizer, built.tables, train.sharding.device)


def check_measured(gate: Gate, hitrate: HitRate, index: Index) -> None:
    """Check that the gate's figures are among those that are measured.

    Raises:
        ValueError: names the keys.
    """
    if gate.k not in hitrate.ks:
        raise ValueError(
            f"gate.k: {gate.k} is none of hitrate.ks {list(hitrate.ks)}, so it would not be measured; set it to one of "
            "them, or add it to hitrate.ks"
        )
    if hitrate.sweep and index.kind == "flat":
        raise ValueError("hitrate.sweep: index.kind flat has nothing to sweep; remove it, or use another kind of index")
