"""What a rank has read and lost since all ranks last brought their counts together."""

import torch
from torch import Tensor

from recsys_core.checkpoint import TrainProgress
from recsys_core.distributed import World
from recsys_core.loading.row_ranges import RowRange, merge


class Account:
    """One rank's count; nothing of it is synchronised with the host or with other ranks until it is settled."""

    def __init__(self, world: World) -> None:
        """Start with nothing."""
        self._world = world
        self._loss_sum = torch.zeros(1, dtype=torch.float64, device=world.device)
        self._consumed: list[RowRange] = []

    def add(self, losses: dict[str, Tensor], consumed: list[RowRange]) -> None:
        """Count one step: its losses, and the ranges of the epoch's order that it took."""
        for loss in losses.values():
            self._loss_sum += loss
        self._consumed += consumed

    def settle(self, position: TrainProgress) -> TrainProgress:
        """Return `position` with what all ranks have counted since the last call; every rank calls this."""
        (loss_sum,) = self._world.sum(self._loss_sum.clone()).tolist()
        self._loss_sum.zero_()
        gathered = [interval for part in self._world.gather(self._consumed) for interval in part]
        self._consumed = []
        consumed = tuple(merge([*position.consumed, *gathered]))
        return position.model_copy(update={"consumed": consumed, "loss_sum": position.loss_sum + loss_sum})
