"""What is seen of a training while it runs: its curve, its speed, and how far it has come; no device is waited for.

Losses stay where they were computed until a report asks for all of them at once.
"""

import itertools
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from recsys_core.checkpoint import TrainProgress
from recsys_core.distributed import World
from recsys_core.integrity import first_line
from recsys_core.loading.row_ranges import RowRange
from recsys_core.progress import Event, Sink

Curve = list[dict[str, float]]
_STAGE = "train"


class Monitor:
    """Counts examples and losses, and emits them; `curve` has a point for each report."""

    def __init__(
        self,
        world: World,
        position: TrainProgress,
        *,
        num_rows: int,
        total: int,
        curve_path: Path,
        sink: Sink,
        keep_rows: Callable[[int, list[RowRange]], str],
    ) -> None:
        """Go on from `position` to about `total` examples.

        `keep_rows` saves the rows at some places of an epoch's order, and says where.
        """
        self._world, self._sink, self._num_rows, self._keep_rows = world, sink, num_rows, keep_rows
        self._total = total
        self._losses: list[dict[str, torch.Tensor]] = []
        self._places: list[tuple[int, list[RowRange]]] = []
        self._curve_path = curve_path
        self._since, self._waited = time.monotonic(), 0.0
        self._done = self._reported = position.epoch * num_rows + sum(b - a for a, b in position.consumed)
        self.curve = _read(curve_path, position.step)

    def waiting(self, batches: Iterator[Any]) -> Iterator[Any]:
        """Yield `batches`, measuring how long each was waited for."""
        while True:
            started = time.monotonic()
            item = next(batches, None)
            self._waited += time.monotonic() - started
            if item is None:
                return
            yield item

    def count(self, epoch: int, losses: dict[str, torch.Tensor], global_rows: int, consumed: list[RowRange]) -> None:
        """Book one step: what `Trainer.step` returned, the rows of all ranks, and this rank's places in the epoch."""
        self._losses.append(losses)
        self._places.append((epoch, consumed))
        self._done += global_rows

    def report(
        self, position: TrainProgress, measured: dict[str, torch.Tensor], known: dict[str, float | None]
    ) -> None:
        """Emit the loss since the last report, averaged over all ranks, the speed, and other figures.

        Where there are several losses, `loss` is their sum, and `loss_NAME` each of them.

        `measured` are numbers that every rank has alike, still on the device; `known` are others, None
        where one is not defined.

        Raises:
            ValueError: a loss is no finite number; says of which batch.
        """
        if self._done == self._reported:
            return
        # One row a step, one column a loss.
        own = torch.stack([torch.stack([*losses.values()]) for losses in self._losses]).double()
        summed = self._world.sum(own.clone())
        extra = [value.detach().double().reshape(1).to(summed.device) for value in measured.values()]
        values = torch.cat([summed.sum(dim=1), summed.sum(dim=0), *extra]).tolist()
        losses, values = values[: len(own)], values[len(own) :]
        if not all(map(math.isfinite, losses)):
            self._refuse(position, losses, own.sum(dim=1))
        num_rows, names = self._done - self._reported, [*self._losses[0]]
        parts = {f"loss_{name}": total / num_rows for name, total in zip(names, values, strict=False)}
        self._losses.clear()
        self._places.clear()
        elapsed = time.monotonic() - self._since
        metrics: dict[str, float | None] = {
            "loss": sum(losses) / num_rows,
            **(parts if len(parts) > 1 else {}),
            "examples_per_second": num_rows / elapsed,
            "data_wait_share": self._waited / elapsed,
            "memory_bytes": _memory_bytes(self._world.device),
            **dict(zip(measured, values[len(parts) :], strict=True)),
            **known,
        }
        self._since, self._waited, self._reported = time.monotonic(), 0.0, self._done
        if self._world.is_first:
            point: dict[str, Any] = {"step": position.step, "examples": self._done, **metrics}
            self.curve.append(point)
            self._emit(position, {name: value for name, value in metrics.items() if value is not None})

    def emit(self, position: TrainProgress, validation: dict[str, float]) -> None:
        """Emit what was measured on the validation rows; the time that took is not the training's."""
        self._since = time.monotonic()
        if self._world.is_first:
            self._emit(position, {f"valid_{name}": value for name, value in validation.items()})

    def write_curve(self) -> None:
        """Save the curve, whole, beside the checkpoint that follows."""
        if self._world.is_first:
            aside = self._curve_path.with_name(f".{self._curve_path.name}.partial")
            pq.write_table(pa.Table.from_pylist(self.curve), aside)
            aside.rename(self._curve_path)

    def stopped(self, position: TrainProgress) -> str:
        """Emit that training stops here, and return the message."""
        words = f"stopped at step {position.step:,}, whose checkpoint is kept; run it again to go on from there"
        if self._world.is_first:
            event = Event(stage=_STAGE, done=self._done, total=self._total, unit="examples", stopped=words)
            self._sink(event.model_copy(update={"step": position.step, "message": words}))
        return words

    def _emit(self, position: TrainProgress, metrics: dict[str, float]) -> None:
        event = Event(stage=_STAGE, done=self._done, total=self._total, unit="examples", metrics=metrics)
        self._sink(event.model_copy(update={"step": position.step}))

    def _refuse(self, position: TrainProgress, losses: list[float], own: torch.Tensor) -> None:
        """Name the first batch whose loss is no number; the rank that had it keeps its rows."""
        at = next(i for i, loss in enumerate(losses) if not math.isfinite(loss))
        step, (epoch, places) = position.step - len(losses) + at + 1, self._places[at]
        mine = None
        if not math.isfinite(float(own[at])):
            rows = ", ".join(f"{a:,} to {b - 1:,}" for a, b in places)
            kept = self._keep_rows(epoch, places)
            mine = f"rank {self._world.rank}: rows {rows} of the epoch's order, which are kept in {kept}"
        where = "; ".join(filter(None, self._world.gather(mine)))
        raise ValueError(
            f"the loss is {losses[at]} at step {step:,} of epoch {epoch + 1} ({where}); lower "
            "train.sparse_optimizer.learning_rate or train.dense_optimizer.learning_rate, set "
            "train.dense_optimizer.max_gradient_norm, or look for extreme values in these rows. The last checkpoint is "
            "from before that"
        )


def _memory_bytes(device: torch.device) -> float:
    """Return what this rank holds now: on a GPU the most it ever held there."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    return float(psutil.Process().memory_info().rss)


def speed(curve: Curve) -> float:
    """Return the examples per second over the whole curve: reading, waiting and updating, without the start-up.

    Of a training without rows it is 0.
    """
    examples = [0.0, *(point["examples"] for point in curve)]
    counts = [after - before for before, after in itertools.pairwise(examples)]
    seconds = [count / point["examples_per_second"] for count, point in zip(counts, curve, strict=True)]
    return sum(counts) / sum(seconds) if counts else 0.0


def _read(path: Path, step: int) -> Curve:
    if not step:
        return []
    try:
        points = pq.read_table(path).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise ValueError(
            f"{path}: damaged ({first_line(error)}); delete {path.parent}, and training begins again"
        ) from None
    return [point for point in points if point["step"] <= step]
