"""The training stage of ranking: every rank of torchrun runs `run`, and the first one writes the artifact."""

from recsys_core import artifacts, distributed, models
from recsys_core.distributed import World
from recsys_core.progress import Sink
from recsys_core.ranking.objective import Ranking
from recsys_core.ranking.requests import TrainRequest as Request
from recsys_core.training import loop
from recsys_core.training import trainer as training
from recsys_core.training.starting import Base


def run(request: Request, sink: Sink) -> artifacts.Checkpoint:
    """Train on every row of the split `train` and return the checkpoint; a rerun takes up where a killed one was.

    Without rows, which a daily run that continues a release may be without, it is the state of the base.
    """
    with distributed.world(request.config.sharding.device) as world:
        made, files = trainer(request, world), request.pretrained
        base = None if request.base is None else Base(request.base, request.base_engine)
        architecture = models.architecture(request.model, made.objective.engine, *request.config.optimizers)
        return loop.fit(
            made,
            request,
            base,
            sink,
            day=request.day,
            files=files,
            data=request.data,
            model=request.model,
            architecture=architecture,
        )


def trainer(request: Request, world: World) -> training.Trainer:
    """Return what trains a ranking model on this rank."""
    size, seed = request.config.batch_size, request.seed
    objective = Ranking(request.ranking, request.model, request.loss, request.data, batch_size=size, seed=seed)
    plans = training.earlier_plans(request, request.base)
    warm = request.base is not None
    return training.Trainer(objective, request.config, world, seed=request.seed, warm=warm, earlier_plans=plans)
