"""YAML section `train.sharding`."""

import math
import os
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from recsys_core.artifacts import Frozen

DEFAULTS = {
    "intra_node_bandwidth": 600 * 2**30 / 1000,
    "cross_node_bandwidth": 12.5 * 2**30 / 1000,
    "storage_reserve_percent": 0.15,
}
"""TorchRec's own figures, which are those of GPUs with NVLink and InfiniBand."""
_ON_CPU = {"intra_node_bandwidth": 2 * 2**30 / 1000, "cross_node_bandwidth": 1.25 * 2**30 / 1000}
"""What gloo moves between two processes of a machine, and over a network of 10 Gbit/s."""
BY_COLUMNS = ("column_wise", "table_column_wise", "grid_shard")
_ON_GPU = ("fused_uvm", "fused_uvm_caching", "table_row_wise", "grid_shard")
ShardingType = Literal["table_wise", "row_wise", "column_wise", "table_row_wise", "table_column_wise", "grid_shard"]
ShardingTypes = Annotated[tuple[ShardingType, ...], Field(min_length=1)]
Kernel = Literal["fused", "fused_uvm", "fused_uvm_caching"]


class TableConstraints(Frozen):
    """What the planner may choose for one table; what is null is as for the rest."""

    sharding_types: ShardingTypes | None = None
    compute_kernels: tuple[Kernel, ...] | None = Field(default=None, min_length=1)
    min_partition: int | None = Field(
        default=None, ge=4, multiple_of=4, description="columns of a part at least, where a table is cut by columns"
    )


class Config(Frozen):
    """YAML section `train.sharding`.

    The bandwidths and the reserve are those of the environment variables of the same names in capitals, where a key is
    null; what the config says wins.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    sharding_types: tuple[ShardingType, ...] = Field(
        default=("table_wise", "row_wise"),
        min_length=1,
        description="what the planner may choose; data_parallel is left out because its tables have no fused optimizer",
    )
    compute_kernels: tuple[Kernel, ...] | None = Field(
        default=None,
        min_length=1,
        description="where tables may lie: fused in the device's memory, fused_uvm and fused_uvm_caching (on GPUs) in "
        "the host's, without and with a cache; null: the planner's choice",
    )
    min_partition: int | None = Field(
        default=None,
        ge=4,
        multiple_of=4,
        description="columns that a part has at least, where tables are cut by columns; null: TorchRec's 128",
    )
    by_table: dict[str, TableConstraints | ShardingTypes] = Field(
        default={}, description="likewise, for single tables or features; a list is of sharding types"
    )
    intra_node_bandwidth: float | None = Field(
        default=None,
        gt=0,
        description="bytes per millisecond between ranks of a node; null: TorchRec's 644,245,094, on CPUs 2,147,484",
    )
    cross_node_bandwidth: float | None = Field(
        default=None,
        gt=0,
        description="bytes per millisecond between nodes; null: TorchRec's 13,421,773, on CPUs 1,342,177",
    )
    storage_reserve_percent: float | None = Field(
        default=None, ge=0, lt=1, description="share of the memory that tables leave free; null: 0.15"
    )
    plan: Path | None = Field(
        default=None, description="a training's folder, or its plan.json: use this plan, and refuse if it does not fit"
    )

    @model_validator(mode="after")
    def _fits_the_device(self) -> Self:
        if self.device == "cpu":
            refuse_on_cpu(self)
        return self

    @property
    def constraints(self) -> dict[str, TableConstraints]:
        """What `by_table` says, in full."""
        return {
            name: own if isinstance(own, TableConstraints) else TableConstraints(sharding_types=own)
            for name, own in self.by_table.items()
        }

    @property
    def splits_rows(self) -> bool:
        """Whether the columns of a table may lie on several ranks."""
        offered = {*self.sharding_types}.union(*(own.sharding_types or () for own in self.constraints.values()))
        return not offered.isdisjoint(BY_COLUMNS)

    def settings(self, device: str) -> dict[str, float]:
        """Return the cluster's figures: the config's, else the environment's, else the defaults of this `device`."""
        given = {name: getattr(self, name) for name in DEFAULTS}
        on_cpu = _ON_CPU if device == "cpu" else {}
        return DEFAULTS | on_cpu | _variables() | {name: value for name, value in given.items() if value is not None}


def refuse_on_cpu(config: Config) -> None:
    """Refuse what only GPUs have.

    Raises:
        ValueError: names it, and what CPUs have.
    """
    places = {"train.sharding": (*config.sharding_types, *(config.compute_kernels or ()))}
    for table, own in config.constraints.items():
        places[f"train.sharding.by_table.{table}"] = (*(own.sharding_types or ()), *(own.compute_kernels or ()))
    for place, names in places.items():
        if found := [name for name in names if name in _ON_GPU]:
            raise ValueError(
                f"{place}: {found[0]} is for GPUs; on CPUs there are table_wise, row_wise, column_wise and "
                "table_column_wise, and the kernel fused"
            )


def _variables() -> dict[str, float]:
    """Return what the environment says of this cluster, by key.

    Raises:
        ValueError: a variable that is no number above 0 (for the reserve: of at least 0 and below 1).
    """
    found: dict[str, float] = {}
    for name in map(str.upper, DEFAULTS):
        text = os.environ.get(name)
        if not text:
            continue
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        is_share = name == "STORAGE_RESERVE_PERCENT"
        if not (0 <= value < 1 if is_share else 0 < value < math.inf):
            wanted = "a share from 0 to below 1, such as 0.15" if is_share else "bytes per millisecond, above 0"
            raise ValueError(f"environment variable {name}: {text!r} is not {wanted}; mend it or unset it")
        found[name.lower()] = value
    return found
