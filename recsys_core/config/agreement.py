"""What no section can check alone: that features, model and training go together, before any data is read."""

from recsys_core import models, optim
from recsys_core.artifacts import Frozen
from recsys_core.features import Config as Features
from recsys_core.features import Engine
from recsys_core.models.base import RankingModel, RetrievalModel
from recsys_core.sharding import pretrained
from recsys_core.train import Config as Train


def check(features: Features, model: Frozen, contract: type[RankingModel] | type[RetrievalModel], train: Train) -> None:
    """Build the model without its tables' memory, and look for the tables that `train` names.

    Raises:
        ValueError: the model is of another contract or does not take the features, a table is not there, it cannot be
            trained on `train.sharding.device`, or the file that a table starts from does not serve it.
    """
    engine = Engine.build(features)
    pretrained.check(engine)
    built = models.build(model, engine, contract, tables_device="meta")  # pyright: ignore[reportArgumentType] - either
    optim.refuse_unfit(train.sparse_optimizer, built.tables, train.sharding.device)
