"""Which table goes where: TorchRec's planner under our constraints, and start weights that no plan changes."""

import logging
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import torch
from fbgemm_gpu.split_table_batched_embeddings_ops_common import BoundsCheckMode
from torch import nn
from torch.distributed._shard.sharded_tensor.api import ShardedTensor
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints, Topology
from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
from torchrec.distributed.planner.types import Shard, ShardingOption, Stats

from recsys_core.distributed import World
from recsys_core.features import Initializer
from recsys_core.sections.sharding import BY_COLUMNS, Config, TableConstraints, refuse_on_cpu
from recsys_core.sharding import adam, plans, unpooled
from recsys_core.sharding.draws import draw_start
from recsys_core.sharding.plans import Plan, RankMemory, TableSize
from recsys_core.sharding.sizes import naming_memory, naming_what_does_not_fit, table_sizes
from recsys_core.uri import nearest

__all__ = ["Config", "Plan", "TableConstraints", "draw_start", "naming_memory", "plan", "shard"]
# The planner warns and logs at length about what we decide below on purpose.
logging.getLogger("torchrec").setLevel(logging.ERROR)
logging.getLogger("MethodLogger-NullHandler").setLevel(logging.ERROR)


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


def plan(
    model: nn.Module,
    config: Config,
    world: World,
    *,
    batch_size: int = 512,
    max_rows: Mapping[str, int] | None = None,
    earlier: Sequence[Path] = (),
) -> tuple[Plan, str]:
    """Plan where the tables of `model` go; return the plan and a message that says where it comes from.

    `batch_size` is per rank. `max_rows` are the tables that grow, and how far. The plan in the first of the folders
    `earlier` that has one is taken again if nothing that it was made for has changed; that of `config.plan` must be.

    Raises:
        ValueError: the tables do not fit into the memory (their sizes are listed), a constraint names no table or
            cannot be met, or `config.plan` is of other tables, another number of ranks, or other settings.
    """
    if world.device.type == "cpu":
        refuse_on_cpu(config)
    sizes = table_sizes(model)
    process, capacity = _memory(world)
    every = world.gather(process)

    def make() -> tuple[Plan, str]:
        made, message = _made(model, sizes, config, world, batch_size, dict(max_rows or {}), earlier)
        reserved = round(capacity * config.settings(world.device.type)["storage_reserve_percent"])
        memory = [RankMemory(capacity_bytes=capacity, process_bytes=one, reserved_bytes=reserved) for one in every]
        return made.model_copy(update={"memory": tuple(memory)}), message

    return world.share(make)


def _memory(world: World) -> tuple[int, int]:
    """Return the bytes that this process has of its device's memory, and the rank's share of all there are."""
    if world.device.type == "cuda":
        free, total = torch.cuda.mem_get_info()
        return total - free, total
    return psutil.Process().memory_info().rss, psutil.virtual_memory().total // world.num_local_ranks


def shard(
    model: nn.Module,
    tables: list[str],
    config: Config,
    world: World,
    seed: int,
    *,
    planned: Plan | None = None,
    initializers: Mapping[str, Initializer] | None = None,
) -> DistributedModelParallel:
    """Shard `tables` as `planned` (null: as planned now), replicate the rest, and draw the tables' start weights.

    The start weights depend on `seed`, the table's name and its initializer (by name, null: uniform in ±1/√rows), not
    on the plan: any number of ranks starts alike.
    """
    made = planned or plan(model, config.model_copy(update={"plan": None}), world)[0]
    assert {table.table for table in made.tables} == set(tables), (made.tables, tables)
    # By default fbgemm would take row 0 for an id that is none of the table, and say so in the log alone.
    fused = {"bounds_check_mode": BoundsCheckMode.FATAL}
    sharders: list[Any] = [Sharder(fused), RowsSharder(fused)]
    where = made.sharding_plan(world.device.type)
    with adam.offered(world.device):
        sharded = DistributedModelParallel(model, device=world.device, plan=where, sharders=sharders)
    unpooled.look_up_as_bags(sharded)
    for name, weight in sharded.state_dict().items():
        if isinstance(weight, ShardedTensor):
            draw_start(name, weight, seed, (initializers or {}).get(name.split(".")[-2]))
    return sharded


class _Chosen(Stats):
    """Listens to the planner for what it chose, with the costs that its plan leaves out."""

    def __init__(self) -> None:
        self.options: list[ShardingOption] = []

    def log(  # pyright: ignore[reportIncompatibleMethodOverride] - it is called with keywords alone
        self, *, best_plan: list[ShardingOption], **_: Any
    ) -> None:
        self.options = best_plan


def _made(
    model: nn.Module,
    sizes: list[TableSize],
    config: Config,
    world: World,
    batch_size: int,
    max_rows: dict[str, int],
    earlier: Sequence[Path],
) -> tuple[Plan, str]:
    constraints = _constraints(config, sizes, world, max_rows)
    basis = _basis(config, sizes, world, constraints)
    if config.plan is not None:
        given = Plan.load(config.plan)
        if changed := given.differences(basis):
            raise ValueError(
                f"train.sharding.plan: {config.plan} does not serve here: {'; '.join(changed)}. Bring that back, or "
                "leave the key out for a fresh plan"
            )
        return given, f"that of {config.plan}"
    message = "fresh"
    if folder := next((folder for folder in earlier if (folder / plans.RECORD).is_file()), None):
        before = Plan.load(folder)
        if not (changed := before.differences(basis)):
            return before, f"that of {folder}, whose tables, ranks and settings are the same"
        message = f"fresh, not that of {folder}: {'; '.join(changed)}"
    chosen, reserve = _Chosen(), config.settings(world.device.type)["storage_reserve_percent"]
    planner = EmbeddingShardingPlanner(
        topology=_topology(config, world),
        batch_size=batch_size,
        constraints=constraints,
        storage_reservation=FixedPercentageStorageReservation(reserve),
        stats=chosen,
    )
    sharders: list[Any] = [Sharder(), RowsSharder()]
    with naming_what_does_not_fit(sizes, reserve, world):
        planner.plan(model, sharders)
    ranks = {"num_ranks": world.num_ranks, "num_local_ranks": world.num_local_ranks}
    _bring_into_order(chosen.options, {size.table: place for place, size in enumerate(sizes)})
    return plans.of_options(chosen.options, sizes, max_rows, basis, **ranks), message


def _bring_into_order(options: list[ShardingOption], places: Mapping[str, int]) -> None:
    """Of tables that are alike, and lie whole on some ranks, give the first ones to the first rank.

    No rank has more of them than the planner gave it. But what ranks send each other comes by rank, and a model reads
    it by table: it need not be moved where both are the same order.
    """
    alike: dict[tuple[object, ...], list[Shard]] = {}
    for option in sorted(options, key=lambda option: places[option.name]):
        if option.sharding_type == "table_wise":
            (shard,) = option.shards
            kind = option.path, option.compute_kernel, *option.tensor.shape, option.tensor.dtype
            alike.setdefault((*kind, str(shard.storage), str(shard.perf)), []).append(shard)
    for shards in alike.values():
        ranks = sorted(shard.rank or 0 for shard in shards)
        for shard, rank in zip(shards, ranks, strict=True):
            shard.rank = rank


def _topology(config: Config, world: World) -> Topology:
    settings = config.settings(world.device.type)
    return Topology(
        world_size=world.num_ranks,
        local_world_size=world.num_local_ranks,
        compute_device=world.device.type,
        hbm_cap=torch.cuda.mem_get_info()[1] if world.device.type == "cuda" else None,
        ddr_cap=psutil.virtual_memory().total // world.num_local_ranks,
        intra_host_bw=settings["intra_node_bandwidth"],
        inter_host_bw=settings["cross_node_bandwidth"],
    )


def _constraints(
    config: Config, sizes: list[TableSize], world: World, growing: Collection[str]
) -> dict[str, ParameterConstraints]:
    """Return what the planner may choose for each table.

    Raises:
        ValueError: `by_table` names neither a table nor a feature, or a table that grows may only be cut by columns.
    """
    # A feature is called `query.NAME` or `item.NAME` in a batch.
    tables = {feature.rpartition(".")[2]: size.table for size in sizes for feature in size.features}
    tables |= {size.table: size.table for size in sizes}
    if unknown := [name for name in config.by_table if name not in tables]:
        raise ValueError(
            f"train.sharding.by_table: no table or feature {unknown[0]!r} (there are: {', '.join(tables)})"
            f"{nearest(unknown[0], list(tables))}"
        )
    own = {tables[name]: constraints for name, constraints in config.constraints.items()}
    allowed: dict[str, ParameterConstraints] = {}
    for size in sizes:
        special = own.get(size.table, TableConstraints())
        # One rank holds whole tables whatever the plan says; only table-wise does so without extra work.
        types = (special.sharding_types or config.sharding_types) if world.num_ranks > 1 else ("table_wise",)
        if (world.num_ranks - 1) * math.ceil(size.num_rows / world.num_ranks) >= size.num_rows:
            # A rank would have no rows of it, which the kernels do not take.
            types = list(dict.fromkeys("table_wise" if kind == "row_wise" else kind for kind in types))
        if size.table in growing:
            # Parts by columns keep numbers of each row one after another, where none could be added.
            types = [kind for kind in types if kind not in BY_COLUMNS]
            if not types:
                raise ValueError(
                    f"train.sharding: table {size.table!r} has dynamic ids, so it grows, and cannot be cut by columns; "
                    "allow it table_wise or row_wise in by_table"
                )
        kernels = special.compute_kernels or config.compute_kernels
        allowed[size.table] = ParameterConstraints(
            sharding_types=list(types),
            compute_kernels=list(kernels) if kernels else None,
            min_partition=special.min_partition or config.min_partition,
        )
    return allowed


def _basis(
    config: Config, sizes: list[TableSize], world: World, constraints: Mapping[str, ParameterConstraints]
) -> dict[str, str]:
    """Return what a plan depends on. The batch's size is left out: an evaluation's is another than the training's."""
    basis = {
        "world size": f"{world.num_ranks} ranks, {world.num_local_ranks} on a node",
        "device": world.device.type,
        **{name: str(value) for name, value in config.settings(world.device.type).items()},
    }
    for size in sizes:
        allowed = constraints[size.table]
        choice = "|".join([*(allowed.sharding_types or []), *(allowed.compute_kernels or [])])
        choice += f"|{allowed.min_partition}" if allowed.min_partition else ""
        basis[f"table {size.table}"] = (
            f"{size.num_rows} x {size.embedding_dim} {size.optimizer} in {size.module} for {', '.join(size.features)} "
            f"({choice})"
        )
    return basis
