"""The training stage of retrieval: every rank of torchrun runs `run`, and the first one writes the artifact."""

from recsys_core import artifacts, distributed, models
from recsys_core.distributed import World
from recsys_core.progress import Sink
from recsys_core.retrieval.objective import Retrieval
from recsys_core.retrieval.requests import TrainRequest as Request
from recsys_core.training.loop import fit
from recsys_core.training.starting import Base
from recsys_core.training.trainer import Trainer, earlier_plans


def run(request: Request, sink: Sink) -> artifacts.Checkpoint:
    """Train on every example of `request.data` and return the checkpoint.

    A rerun of a killed training takes up its last checkpoint and ends where the undisturbed one would have.
    """
    with distributed.world(request.config.sharding.device) as world:
        made, data = trainer(request, world), request.data
        base = None if request.base is None else Base(request.base, request.base_engine)
        architecture = models.architecture(request.model, made.objective.engine, *request.config.optimizers)
        return fit(
            made,
            request,
            base,
            sink,
            day=data.day,
            files=request.pretrained,
            data=data,
            model=request.model,
            architecture=architecture,
        )


def trainer(request: Request, world: World) -> "Trainer":
    """Return what trains a retrieval model on this rank."""
    objective = Retrieval(
        request.model,
        request.sampler,
        request.loss,
        request.data,
        batch_size=request.config.batch_size,
        seed=request.seed,
        world=world,
    )
    return Trainer(
        objective,
        request.config,
        world,
        seed=request.seed,
        warm=request.base is not None,
        earlier_plans=earlier_plans(request, request.base),
    )
