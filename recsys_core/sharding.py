"""Which table goes where: TorchRec's planner under our constraints, and start weights that no plan changes."""

import logging
from collections.abc import Mapping
from typing import Any, Literal

import psutil
import torch
import torch.distributed as dist
from pydantic import Field
from torch import nn
from torch.distributed._shard.sharded_tensor.api import ShardedTensor
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints, Topology
from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation

from recsys_core.artifacts import Frozen, digest_of
from recsys_core.distributed import World
from recsys_core.features import Initializer
from recsys_core.models.blocks.initializers import fill

_ROWS_PER_DRAW = 65_536
_RESERVED_SHARE = 0.15

# The planner warns and logs at length about what we decide below on purpose.
logging.getLogger("torchrec").setLevel(logging.ERROR)
logging.getLogger("MethodLogger-NullHandler").setLevel(logging.ERROR)


class Config(Frozen):
    """YAML section `train.sharding`."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    sharding_types: tuple[Literal["table_wise", "row_wise", "column_wise"], ...] = Field(
        default=("table_wise", "row_wise"),
        min_length=1,
        description="what the planner may choose; data_parallel is left out because its tables have no fused optimizer",
    )
    by_table: dict[str, tuple[Literal["table_wise", "row_wise", "column_wise"], ...]] = Field(
        default={}, description="likewise, for single tables"
    )


class Sharder(EmbeddingBagCollectionSharder):
    """TorchRec's sharder, which also offers row-wise sharding on CPUs: it leaves that out, though gloo can do it."""

    def sharding_types(self, compute_device_type: str) -> list[str]:
        """Return the sharding types that the planner may choose from."""
        return list(dict.fromkeys([*super().sharding_types(compute_device_type), "row_wise"]))


class RowsSharder(EmbeddingCollectionSharder):
    """Likewise for collections of unpooled embeddings."""

    def sharding_types(self, compute_device_type: str) -> list[str]:
        """Return the sharding types that the planner may choose from."""
        return list(dict.fromkeys([*super().sharding_types(compute_device_type), "row_wise"]))


def shard(
    model: nn.Module,
    tables: list[str],
    config: Config,
    here: World,
    seed: int,
    *,
    initializers: Mapping[str, Initializer] | None = None,
) -> DistributedModelParallel:
    """Plan where `tables` go, shard them, replicate the rest, and draw the tables' start weights.

    The start weights depend on `seed`, the table's name and its initializer (by name, null: uniform in ±1/√rows), not
    on the plan: any number of ranks starts alike.
    """

    def allowed(table: str) -> list[str]:
        # One rank holds whole tables whatever the plan says; only table-wise does so without extra work.
        return list(config.by_table.get(table, config.sharding_types)) if here.num_ranks > 1 else ["table_wise"]

    constraints = {name: ParameterConstraints(sharding_types=allowed(name)) for name in tables}
    topology = Topology(
        world_size=here.num_ranks,
        local_world_size=here.num_local_ranks,
        compute_device=here.device.type,
        hbm_cap=torch.cuda.mem_get_info()[1] if here.device.type == "cuda" else None,
        ddr_cap=psutil.virtual_memory().total // here.num_local_ranks,
    )
    planner = EmbeddingShardingPlanner(
        topology=topology,
        constraints=constraints,
        storage_reservation=FixedPercentageStorageReservation(_RESERVED_SHARE),
    )
    sharders: list[Any] = [Sharder(), RowsSharder()]
    group = dist.group.WORLD
    assert group is not None
    plan = planner.collective_plan(model, sharders, group)
    sharded = DistributedModelParallel(model, device=here.device, plan=plan, sharders=sharders)
    for name, weight in sharded.state_dict().items():
        if isinstance(weight, ShardedTensor):
            initializer = (initializers or {}).get(name.split(".")[-2])
            for piece in weight.local_shards():
                seeds = (seed, int(digest_of(name)[:15], 16))
                _draw(piece.tensor, piece.metadata.shard_offsets, weight.size(), seeds, initializer)
    return sharded


def _draw(
    piece: torch.Tensor,
    offsets: list[int],
    size: torch.Size,
    seeds: tuple[int, int],
    initializer: Initializer | None = None,
) -> None:
    """Fill `piece`, which stands at `offsets` of a [rows, dim] table, as the initializer says."""
    num_rows, dim = size
    first, last = offsets[0], offsets[0] + len(piece)
    for block in range(first // _ROWS_PER_DRAW, -(-last // _ROWS_PER_DRAW)):
        low = block * _ROWS_PER_DRAW
        generator = torch.Generator().manual_seed((seeds[0] * 1_000_003 + seeds[1] + block) % 2**63)
        drawn = torch.empty(min(_ROWS_PER_DRAW, num_rows - low), dim)
        fill(drawn, initializer, num_rows, generator)
        a, b = max(first, low), min(last, low + _ROWS_PER_DRAW)
        columns = slice(offsets[1], offsets[1] + piece.shape[1])
        with torch.no_grad():
            piece[a - first : b - first] = drawn[a - low : b - low, columns]
