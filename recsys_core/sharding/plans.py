"""A sharding plan as a record: which rank holds which part of which table, what that takes and what it may cost.

It is printed, kept beside the checkpoint, and taken again where the tables, the ranks and the settings are the same.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from torch.distributed._shard.metadata import ShardMetadata
from torch.distributed._shard.sharding_spec.api import EnumerableShardingSpec
from torchrec.distributed.planner.types import ShardingOption
from torchrec.distributed.planner.utils import placement
from torchrec.distributed.types import EmbeddingModuleShardingPlan, ParameterSharding, ShardingPlan

from recsys_core.artifacts import Frozen, write_text
from recsys_core.integrity import read_record

RECORD, TABLE = "plan.json", "plan.txt"
_UNITS = ("B", "KB", "MB", "GB", "TB")
# Numbers that an optimizer keeps besides a weight: of each element, and of each row.
_STATE_NUMBERS = {
    "SGD": (0, 0),
    "Adagrad": (1, 0),
    "RowWiseAdagrad": (0, 1),
    "Adam": (2, 0),
    "PartialRowWiseAdam": (1, 1),
    "LAMB": (2, 0),
    "PartialRowWiseLAMB": (1, 1),
}


class Piece(Frozen):
    """A rank's part of a table: `offset` and `size` are (row, column).

    `num_bytes` are the weights' and the optimizer's; `batch_bytes` what the planner expects of a batch's ids and
    embeddings besides, and `cost_ms` what a step should take.
    """

    rank: int
    offset: tuple[int, int]
    size: tuple[int, int]
    num_bytes: int
    batch_bytes: int
    cost_ms: float


class TablePlan(Frozen):
    """Where one table goes; `module` is the path of its collection. A table that grows does so up to `max_rows`."""

    module: str
    table: str
    num_rows: int
    embedding_dim: int
    max_rows: int | None = None
    optimizer: str
    sharding_type: str
    compute_kernel: str
    pieces: tuple[Piece, ...]

    @property
    def growth(self) -> float:
        """How many times its present size the table may come to have."""
        return 1.0 if self.max_rows is None else self.max_rows / self.num_rows


class RankMemory(Frozen):
    """A rank's share of its device's memory, what the process had of it before its tables, and what they leave free."""

    capacity_bytes: int
    process_bytes: int
    reserved_bytes: int


class Plan(Frozen):
    """A whole plan. `basis` is what it was made for, by the name of what it is: another basis needs another plan.

    `memory` is that of each rank when the plan was used; empty: not measured.
    """

    num_ranks: int
    num_local_ranks: int
    basis: dict[str, str]
    tables: tuple[TablePlan, ...]
    memory: tuple[RankMemory, ...] = ()

    def sharding_plan(self, device: str) -> ShardingPlan:
        """Return it in TorchRec's form, for ranks on `device`s of this type."""
        modules: dict[str, Any] = {}
        for table in self.tables:
            shards = [
                ShardMetadata(list(piece.offset), list(piece.size), placement(device, piece.rank, self.num_local_ranks))
                for piece in table.pieces
            ]
            modules.setdefault(table.module, EmbeddingModuleShardingPlan())[table.table] = ParameterSharding(
                sharding_type=table.sharding_type,
                compute_kernel=table.compute_kernel,
                ranks=[piece.rank for piece in table.pieces],
                sharding_spec=EnumerableShardingSpec(shards),
            )
        return ShardingPlan(modules)

    def num_bytes(self, rank: int) -> int:
        """Return what the tables' weights and optimizers take on `rank`."""
        return sum(piece.num_bytes for _, piece in self._on(rank))

    def most_bytes(self, rank: int) -> int:
        """Return likewise what they take when every table that grows has grown to its end."""
        return round(sum(piece.num_bytes * table.growth for table, piece in self._on(rank)))

    def peak_bytes(self, rank: int) -> int:
        """Return the most that `rank`'s process should come to take: tables, batches, what it had, and the reserve."""
        memory = self.memory[rank]
        batches = sum(piece.batch_bytes for _, piece in self._on(rank))
        return self.num_bytes(rank) + batches + memory.process_bytes + memory.reserved_bytes

    def _on(self, rank: int) -> list[tuple[TablePlan, Piece]]:
        return [(table, piece) for table in self.tables for piece in table.pieces if piece.rank == rank]

    def text(self) -> str:
        """Return the plan as a table for people: a line for each table, and one for each rank."""
        head = ("table", "sharding", "kernel", "ranks", "rows x dim", "bytes", "full", "cost ms by rank")
        lines: list[tuple[str, ...]] = [head]
        for table in self.tables:
            total = sum(piece.num_bytes for piece in table.pieces)
            lines.append(
                (
                    table.table,
                    table.sharding_type,
                    table.compute_kernel,
                    ",".join(str(piece.rank) for piece in table.pieces),
                    f"{table.num_rows:,} x {table.embedding_dim}",
                    readable(total),
                    readable(total * table.growth) if table.max_rows is not None else "",
                    " ".join(f"{piece.cost_ms:.3g}" for piece in table.pieces),
                )
            )
        for rank in range(self.num_ranks):
            mine = [piece for _, piece in self._on(rank)]
            most = self.most_bytes(rank)
            batches = readable(sum(piece.batch_bytes for piece in mine))
            lines.append(
                (
                    f"rank {rank}",
                    f"{len(mine)} parts",
                    "",
                    str(rank),
                    f"batches {batches}",
                    readable(self.num_bytes(rank)),
                    readable(most) if most != self.num_bytes(rank) else "",
                    f"{sum(piece.cost_ms for piece in mine):.3g}",
                )
            )
        return "\n".join([aligned(lines), *(self._memory_text(rank) for rank in range(len(self.memory)))])

    def _memory_text(self, rank: int) -> str:
        memory, tables = self.memory[rank], self.num_bytes(rank)
        return (
            f"rank {rank}: {readable(self.peak_bytes(rank))} of {readable(memory.capacity_bytes)} at most = tables and "
            f"batches {readable(self.peak_bytes(rank) - memory.process_bytes - memory.reserved_bytes)} + process "
            f"{readable(memory.process_bytes)} + reserve {readable(memory.reserved_bytes)}"
            + (f"; full tables {readable(most)}" if (most := self.most_bytes(rank)) != tables else "")
        )

    def save(self, directory: Path) -> None:
        """Write the record and the table of it into `directory`."""
        write_text(directory / RECORD, self.model_dump_json(indent=1))
        write_text(directory / TABLE, self.text() + "\n")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read back what `save` wrote into the folder `path`, or the record `path` itself.

        Raises:
            ValueError: no plan there, or not one of this version.
        """
        record = path / RECORD if path.is_dir() else path
        if not record.is_file():
            raise ValueError(f"{path}: no plan there; name a training's folder, which has {RECORD}, or such a file")
        try:
            return read_record(cls, record)
        except ValueError as error:
            message = str(error).removeprefix(f"{record}: ")
            raise ValueError(f"{record}: no plan of this version ({message}); delete it and plan anew") from None

    def differences(self, basis: Mapping[str, str]) -> list[str]:
        """Say what is other in `basis` than in this plan's."""
        names = [name for name in dict.fromkeys([*self.basis, *basis]) if self.basis.get(name) != basis.get(name)]
        return [f"{name} was {self.basis.get(name, 'absent')} and is {basis.get(name, 'absent')}" for name in names]


class TableSize(NamedTuple):
    """A table that is to be planned; `optimizer` is the class that was fused into it."""

    module: str
    table: str
    num_rows: int
    embedding_dim: int
    features: tuple[str, ...]
    optimizer: str
    itemsize: int

    @property
    def num_bytes(self) -> int:
        """What it takes whole: weights and optimizer state."""
        return piece_bytes(self.num_rows, self.embedding_dim, self.optimizer, self.itemsize)


def piece_bytes(num_rows: int, dim: int, optimizer: str, itemsize: int) -> int:
    """Return what `num_rows` x `dim` weights take with the state that `optimizer`, in float32, keeps of them."""
    by_element, by_row = _STATE_NUMBERS[optimizer]
    state = torch.float32.itemsize * (num_rows * dim * by_element + num_rows * by_row)
    return num_rows * dim * itemsize + state


def of_options(
    options: Iterable[ShardingOption],
    sizes: Sequence[TableSize],
    max_rows: Mapping[str, int],
    basis: Mapping[str, str],
    *,
    num_ranks: int,
    num_local_ranks: int,
) -> Plan:
    """Return the record of what TorchRec's planner chose, tables in the order of `sizes`."""
    chosen = {option.name: option for option in options}
    tables: list[TablePlan] = []
    for size in sizes:
        option = chosen[size.table]
        pieces: list[Piece] = []
        for shard in option.shards:
            rows, dim = shard.size
            assert shard.rank is not None
            assert shard.storage is not None
            assert shard.perf is not None
            num_bytes = piece_bytes(rows, dim, size.optimizer, size.itemsize)
            rest = max(shard.storage.hbm + shard.storage.ddr - num_bytes, 0)
            offset = (shard.offset[0], shard.offset[1])
            pieces.append(
                Piece(
                    rank=shard.rank,
                    offset=offset,
                    size=(rows, dim),
                    num_bytes=num_bytes,
                    batch_bytes=rest,
                    cost_ms=shard.perf.total,
                )
            )
        tables.append(
            TablePlan(
                module=size.module,
                table=size.table,
                num_rows=size.num_rows,
                embedding_dim=size.embedding_dim,
                max_rows=max_rows.get(size.table),
                optimizer=size.optimizer,
                sharding_type=option.sharding_type,
                compute_kernel=option.compute_kernel,
                pieces=tuple(pieces),
            )
        )
    return Plan(num_ranks=num_ranks, num_local_ranks=num_local_ranks, basis=dict(basis), tables=tuple(tables))


def sizes_text(sizes: Iterable[TableSize]) -> str:
    """Return how large each table is, the largest first, for an error that says that they do not fit."""
    head = ("table", "rows x dim", "optimizer", "bytes")
    largest = sorted(sizes, key=lambda size: -size.num_bytes)
    rows = [
        (size.table, f"{size.num_rows:,} x {size.embedding_dim}", size.optimizer, readable(size.num_bytes))
        for size in largest
    ]
    total = ("all", "", "", readable(sum(size.num_bytes for size in largest)))
    return aligned([head, *rows, total])


def aligned(lines: Sequence[tuple[str, ...]]) -> str:
    """Return `lines`, the first of which is the head, in columns."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    padded = [[text.ljust(width) for text, width in zip(line, widths, strict=True)] for line in lines]
    return "\n".join("  ".join(line).rstrip() for line in padded)


def readable(num_bytes: float) -> str:
    """Return a size in the unit that suits it, by thousands: 1.25 GB."""
    power = 0
    while num_bytes >= 999.5 and power < len(_UNITS) - 1:
        num_bytes, power = num_bytes / 1_000, power + 1
    return f"{num_bytes:.3g} {_UNITS[power]}"


def described(value: Any) -> str:
    """Return a setting as a plan's basis keeps it."""
    return json.dumps(value, sort_keys=True)
