"""The training stage of ranking: every rank of torchrun runs `run`, and the first one writes the artifact."""

import datetime
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field

from recsys_core import artifacts, distributed
from recsys_core.artifacts import ComponentConfig, LabelledData
from recsys_core.distributed import World
from recsys_core.lookup import OneOf
from recsys_core.progress import Sink
from recsys_core.ranking import Config
from recsys_core.ranking.objective import Ranking
from recsys_core.training import loop
from recsys_core.training import trainer as training
from recsys_core.training.config import Config as TrainingConfig
from recsys_core.training.starting import Base


class Request(artifacts.Request):
    """What the training of a ranking model needs; `day` names it, and `base` is the checkpoint to continue from.

    `base_engine` are the features that it was trained with, null: where that training had them. `pretrained` are the
    fingerprints of the files that tables start from.
    """

    UNKEYED: ClassVar[frozenset[str]] = artifacts.Request.UNKEYED | {"base_engine"}

    config: TrainingConfig
    ranking: Config
    model: Annotated[ComponentConfig, OneOf("recsys_core.models")]
    loss: Annotated[ComponentConfig, OneOf("recsys_core.losses")]
    num_ranks: int
    seed: int
    day: datetime.date
    data: LabelledData
    base: artifacts.Checkpoint | None = None
    base_engine: Path | None = None
    pretrained: dict[str, str] = Field(default={})


def run(request: Request, sink: Sink) -> artifacts.Checkpoint:
    """Train on every row of the split `train` and return the checkpoint; a rerun takes up where a killed one was.

    Without rows, which a daily run that continues a release may be without, it is the state of the base.
    """
    with distributed.world(request.config.sharding.device) as world:
        made, files = trainer(request, world), request.pretrained
        base = None if request.base is None else Base(request.base, request.base_engine)
        return loop.fit(made, request, base, sink, day=request.day, files=files, data=request.data)


def trainer(request: Request, world: World) -> training.Trainer:
    """Return what trains a ranking model on this rank."""
    size, seed = request.config.batch_size, request.seed
    objective = Ranking(request.ranking, request.model, request.loss, request.data, batch_size=size, seed=seed)
    plans = training.earlier_plans(request, request.base)
    warm = request.base is not None
    return training.Trainer(objective, request.config, world, seed=request.seed, warm=warm, earlier_plans=plans)
