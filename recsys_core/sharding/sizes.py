"""How large a model's tables are, and what is said where they do not fit."""

import contextlib
from collections.abc import Iterator

import psutil
import torch
from torch import nn
from torchrec import EmbeddingBagCollection, EmbeddingCollection
from torchrec.distributed.planner.types import PlannerError

from recsys_core.distributed import World
from recsys_core.sharding import plans
from recsys_core.sharding.plans import Plan, TableSize

_NO_MEMORY = "can't allocate memory"  # what torch says of a CPU's


@contextlib.contextmanager
def naming_what_does_not_fit(sizes: list[TableSize], reserve_percent: float, world: World) -> Iterator[None]:
    """Inside, tables that no plan can place are an error that lists their sizes."""
    try:
        yield
    except PlannerError as error:
        first = " ".join(str(error).split())[:300]
        memory = psutil.virtual_memory().total
        raise ValueError(
            f"no plan puts these tables on {world.num_ranks} ranks:\n{plans.sizes_text(sizes)}\n"
            f"The node has {plans.readable(memory)} for {world.num_local_ranks} ranks, of which "
            f"storage_reserve_percent={reserve_percent:g} stays free. Make tables smaller "
            "(num_embeddings, embedding_dim, dynamic.max_rows), take a sparse optimizer with less state, allow "
            f"row_wise in train.sharding, or use more ranks on more nodes. The planner: {first}"
        ) from None


@contextlib.contextmanager
def naming_memory(planned: Plan) -> Iterator[None]:
    """Inside, memory that cannot be had is an error that shows what the tables take of it.

    Raises:
        ValueError: it could not be had.
    """
    try:
        yield
    except RuntimeError as error:
        message = str(error)
        if not isinstance(error, torch.OutOfMemoryError) and _NO_MEMORY not in message:
            raise
        first, _, _ = message[max(message.find(_NO_MEMORY), 0) :].partition("\n")
        raise ValueError(
            f"out of memory: {first}\n{planned.text()}\nMake tables smaller (num_embeddings, embedding_dim, "
            "dynamic.max_rows), lower train.batch_size, take a sparse optimizer with less state, allow row_wise in "
            "train.sharding, or use more ranks on more nodes"
        ) from error


def table_sizes(model: nn.Module) -> list[TableSize]:
    """Return the tables of all collections in `model`, in their order."""
    found: list[TableSize] = []
    for path, module in model.named_modules():
        if isinstance(module, EmbeddingBagCollection):
            configs, weights = module.embedding_bag_configs(), dict(module.embedding_bags.named_parameters())
        elif isinstance(module, EmbeddingCollection):
            configs, weights = module.embedding_configs(), dict(module.embeddings.named_parameters())
        else:
            continue
        for config in configs:
            weight = weights[f"{config.name}.weight"]
            fused = getattr(weight, "_optimizer_classes", None)
            found.append(
                TableSize(
                    module=path,
                    table=config.name,
                    num_rows=config.num_embeddings,
                    embedding_dim=config.embedding_dim,
                    features=tuple(config.feature_names),
                    optimizer=fused[0].__name__ if fused else "SGD",
                    itemsize=weight.element_size(),
                )
            )
    return found
