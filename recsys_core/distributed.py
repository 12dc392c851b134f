"""Ranks and devices. The only file of the core that starts process groups."""

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore, PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from recsys_core import variables
from recsys_core.variables import STAGE_NUMBER

T = TypeVar("T")

_RESTARTS = "TORCHELASTIC_RESTART_COUNT"


@dataclass(frozen=True)
class World:
    """Where this process stands among its ranks; they talk in `group` (None: the one of the world).

    `num_restarts` is how often torchrun has started all of them again.
    """

    rank: int
    num_ranks: int
    num_local_ranks: int
    device: torch.device
    group: dist.ProcessGroup | None = None
    num_restarts: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this is the rank that writes and reports."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait for every rank."""
        dist.barrier(self.group)

    def gather(self, value: T) -> list[T]:
        """Return every rank's `value`, in the order of ranks, on every rank."""
        gathered: list[Any] = [None] * self.num_ranks
        dist.all_gather_object(gathered, value, self.group)
        return gathered

    def share(self, make: Callable[[], T]) -> T:
        """Return on every rank what `make` returns on the first; a ValueError of it is raised on every rank."""
        made: list[Any] = [None, None]
        if self.is_first:
            try:
                made = [make(), None]
            except ValueError as error:
                made = [None, str(error)]
        dist.broadcast_object_list(made, group=self.group)
        if made[1] is not None:
            raise ValueError(made[1])
        return made[0]

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Return the sum of `values` over the ranks."""
        dist.all_reduce(values, group=self.group)
        return values

    def seed(self, seed: int) -> None:
        """Seed what draws on this rank's device.

        `torch.manual_seed` does too, but for each kind of device that this process has not used it keeps the call for
        ever, with the stack that it came from.
        """
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def beside(self) -> "World":
        """Return the same ranks, talking among CPUs in a group of their own: two threads must not share one."""
        group = dist.new_group(backend="gloo")
        assert isinstance(group, dist.ProcessGroup)
        return replace(self, group=group)


@contextlib.contextmanager
def world(device: str = "auto") -> Iterator[World]:
    """Join the ranks that torchrun started (a process started without it is the only rank); leave them at the end.

    Raises:
        ValueError: `device` is `cuda` and there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("the device asked for is cuda, but torch sees no GPU; set it to auto or cpu")
    on_gpu = device != "cpu" and torch.cuda.is_available()
    rank, num_ranks = variables.rank()
    target = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(target)
    backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
    dist.init_process_group(backend, store=_store(), rank=rank, world_size=num_ranks)
    try:
        num_local, num_restarts = (
            int(os.environ.get(name, other)) for name, other in (("LOCAL_WORLD_SIZE", "1"), (_RESTARTS, "0"))
        )
        yield World(rank, num_ranks, num_local, target, num_restarts=num_restarts)
    finally:
        dist.destroy_process_group()


def _store() -> Store:
    """Return where ranks find each other's addresses: torchrun's store, in which each stage has a place of its own.

    torchrun keeps one store for all stages that its processes fork ranks for, which would find the addresses of others.
    """
    if "RANK" not in os.environ:
        return HashStore()
    store, *_ = next(rendezvous("env://"))
    return PrefixStore(f"stage {os.environ.get(STAGE_NUMBER, '0')}", store)
