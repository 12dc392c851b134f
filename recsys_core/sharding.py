"""Which table goes where: TorchRec's planner under our constraints, and start weights that no plan changes."""

import logging
from collections.abc import Sequence
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
from recsys_core.features import Initializer, TableSpec
from recsys_core.uri import nearest

_ROWS_PER_DRAW = 65_536
_RESERVED_SHARE = 0.15

# The planner warns and logs at length about what we decide below on purpose.
logging.getLogger("torchrec").setLevel(logging.ERROR)
logging.getLogger("MethodLogger-NullHandler").setLevel(logging.ERROR)


ShardingType = Literal["table_wise", "row_wise", "column_wise"]
Kernel = Literal["dense", "fused", "fused_uvm", "fused_uvm_caching"]


class Config(Frozen):
    """YAML section `train.sharding`."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    sharding_types: tuple[ShardingType, ...] = Field(
        default=("table_wise", "row_wise"),
        min_length=1,
        description="what the planner may choose; data_parallel is left out because its tables have no fused optimizer",
    )
    by_table: dict[str, tuple[ShardingType, ...]] = Field(default={}, description="likewise, for single tables")
    kernels_by_table: dict[str, tuple[Kernel, ...]] = Field(
        default={},
        description="what the planner may compute single tables with; fused_uvm keeps a table in the host's memory and "
        "fused_uvm_caching its hot rows on the GPU; by default whatever fits",
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


def refuse_tables(config: Config, tables: Sequence[TableSpec], device: str) -> None:
    """Check that the tables which `config` names are there, and that `device` can train them all.

    Raises:
        ValueError: one is not, and which is the nearest; or it has a type that the kernels for CPUs do not know.
    """
    known = [table.name for table in tables]
    for key in ("by_table", "kernels_by_table"):
        for name in getattr(config, key):
            if name not in known:
                raise ValueError(
                    f"train.sharding.{key}: there is no table {name!r} (there are: {', '.join(known)})"
                    f"{nearest(name, known)}"
                )
    for table in tables:
        if device == "cpu" and table.dtype == "bfloat16":
            raise ValueError(
                f"features.tables, {table.name!r}: the kernels for CPUs have no bfloat16; take float16, or a GPU"
            )


def shard(
    model: nn.Module, tables: Sequence[TableSpec], config: Config, here: World, seed: int
) -> DistributedModelParallel:
    """Plan where `tables` go, shard them, replicate the rest, and draw the tables' start weights.

    The start weights depend on `seed` and the table's name alone, not on the plan: any number of ranks starts alike.

    Raises:
        ValueError: see `refuse_tables`.
    """
    specs = {table.name: table for table in tables}
    refuse_tables(config, tables, here.device.type)

    def allowed(table: str) -> list[str]:
        # One rank holds whole tables whatever the plan says; only table-wise does so without extra work.
        return list(config.by_table.get(table, config.sharding_types)) if here.num_ranks > 1 else ["table_wise"]

    constraints = {
        name: ParameterConstraints(
            sharding_types=allowed(name),
            compute_kernels=list(config.kernels_by_table[name]) if name in config.kernels_by_table else None,
        )
        for name in specs
    }
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
            for piece in weight.local_shards():
                seeds = (seed, int(digest_of(name)[:15], 16))
                _draw(piece.tensor, piece.metadata.shard_offsets, weight.size(), seeds, specs[name.split(".")[-2]])
    return sharded


def _draw(piece: torch.Tensor, offsets: list[int], size: torch.Size, seeds: tuple[int, int], table: TableSpec) -> None:
    """Fill `piece`, which stands at `offsets` of a [rows, dim] table, as the table's initializer says."""
    num_rows, dim = size
    first, last = offsets[0], offsets[0] + len(piece)
    for block in range(first // _ROWS_PER_DRAW, -(-last // _ROWS_PER_DRAW)):
        low = block * _ROWS_PER_DRAW
        generator = torch.Generator().manual_seed((seeds[0] * 1_000_003 + seeds[1] + block) % 2**63)
        drawn = torch.empty(min(_ROWS_PER_DRAW, num_rows - low), dim)
        _fill(drawn, table.initializer, num_rows, generator)
        a, b = max(first, low), min(last, low + _ROWS_PER_DRAW)
        columns = slice(offsets[1], offsets[1] + piece.shape[1])
        with torch.no_grad():
            piece[a - first : b - first] = drawn[a - low : b - low, columns]


def _fill(drawn: torch.Tensor, initializer: Initializer | None, num_rows: int, generator: torch.Generator) -> None:
    """Draw numbers [rows, dim] of a table of `num_rows`; without an initializer uniform in ±1/√rows, as TorchRec."""
    if initializer is None:
        drawn.copy_((torch.rand(drawn.shape, generator=generator) * 2 - 1) / num_rows**0.5)
        return
    kind, dim = initializer.kind, drawn.shape[1]
    variance = 2 / (num_rows + dim) if kind.startswith("xavier") else 2 / dim
    match kind:
        case "constant":
            assert initializer.value is not None
            drawn.fill_(initializer.value)
        case "uniform":
            assert initializer.low is not None
            assert initializer.high is not None
            drawn.uniform_(initializer.low, initializer.high, generator=generator)
        case "xavier_uniform" | "kaiming_uniform":
            bound = (3 * variance) ** 0.5
            drawn.uniform_(-bound, bound, generator=generator)
        case "xavier_normal" | "kaiming_normal":
            drawn.normal_(0, variance**0.5, generator=generator)
        case _:
            assert initializer.mean is not None
            assert initializer.std is not None
            mean, std = initializer.mean, initializer.std
            if kind == "normal":
                drawn.normal_(mean, std, generator=generator)
            else:
                nn.init.trunc_normal_(drawn, mean, std, mean - 2 * std, mean + 2 * std, generator=generator)
