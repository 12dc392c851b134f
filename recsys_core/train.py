"""The training stage: every rank of torchrun runs `run`, and the first one writes the artifact.

Legend: B queries, M items.
"""

import itertools
import math
import shutil
import time
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pydantic import Field, model_validator
from torchrec.distributed.model_parallel import DistributedModelParallel

from recsys_core import artifacts, checkpoint, distributed, models, optim, sharding
from recsys_core.artifacts import Frozen, Pending, TrainingData
from recsys_core.batch import Batch
from recsys_core.checkpoint import Position, files, fine_tune
from recsys_core.distributed import World
from recsys_core.features import Engine
from recsys_core.feed import Feed, ItemTable
from recsys_core.loader import Interval, Order, Shard, merge, prefetch
from recsys_core.lookup import OneOf
from recsys_core.losses import sampled_softmax
from recsys_core.progress import Event, Sink
from recsys_core.readers import parquet
from recsys_core.sharding import Config as Sharding

_STAGE = "train"


class Config(Frozen):
    """YAML section `train`."""

    batch_size: int = Field(default=1024, ge=1, description="examples per rank and step")
    num_epochs: int = Field(
        default=3, ge=1, description="passes over the examples when training starts from random weights"
    )
    num_warm_epochs: int = Field(
        default=1, ge=1, description="passes over the new examples when it continues a release"
    )
    warm_start: bool = Field(default=True, description="continue from the newest release of an earlier day")
    shuffle_rows: int = Field(
        default=262_144, ge=0, description="rows that are mixed in memory; 0 keeps the table's order"
    )
    checkpoint_every_steps: int = Field(
        default=1_000, ge=1, description="a killed training loses no more steps than this"
    )
    keep_checkpoints: int = Field(default=1, ge=1, description="of a training that is under way, the newest so many")
    restore_optimizer: bool = Field(
        default=True, description="false: a warm start takes the release's weights, and its optimizers start anew"
    )
    fine_tune_from: fine_tune.Config | None = None
    log_every_steps: int = Field(default=20, ge=1)
    precision: Literal["float32", "bfloat16"] = Field(
        default="float32", description="of the forward pass; weights, losses and optimizers stay float32"
    )
    sparse_optimizer: optim.SparseConfig = optim.SparseConfig()
    dense_optimizer: optim.DenseConfig = optim.DenseConfig()
    sharding: Sharding = Sharding()

    @model_validator(mode="after")
    def _can_run(self) -> Self:
        optim.check(self.sparse_optimizer, self.sharding.device)
        return self


class Request(artifacts.Request):
    """What training needs; `base` is the checkpoint to continue from."""

    config: Config
    model: Annotated[Frozen, OneOf("recsys_core.models")]
    sampler: Annotated[Frozen, OneOf("recsys_core.samplers")]
    loss: sampled_softmax.Config
    num_ranks: int
    seed: int
    data: TrainingData
    base: artifacts.Checkpoint | None


class Trainer:
    """The state of one training on one rank: model, optimizers, and where it stands."""

    def __init__(self, request: Request, here: World) -> None:
        """Build and shard the model, then fill it from `request.base`, if there is one."""
        self.request, self.here = request, here
        engine = Engine.load(request.data.engine)
        self.feed = Feed(
            engine, ItemTable(request.data.items, engine), request.sampler, seed=request.seed, rank=here.rank
        )
        self.reader = parquet.Reader(parquet.Config(path=str(request.data.examples)))
        torch.manual_seed(request.seed)
        model = models.build(request.model, engine, tables_device="meta")
        optim.fuse(request.config.sparse_optimizer, model.tables, here.device)
        tables = [table.name for table in engine.tables]
        self.model: DistributedModelParallel = sharding.shard(
            model, tables, request.config.sharding, here, request.seed
        )
        self.optimizer = optim.Optimizer(request.config.sparse_optimizer, request.config.dense_optimizer, self.model)
        self.loss = sampled_softmax.Loss(request.loss)
        self.log_expected = self.feed.log_expected(
            request.config.batch_size, in_batch=request.loss.in_batch_negatives
        ).to(here.device)
        self.position = Position()

    def state(self) -> dict[str, Any]:
        """Return the tensors of a checkpoint, which `restore` fills in place."""
        return {"model": self.model.state_dict(), **self.optimizer.state()}

    def restore(self, directory: Path, *sections: str) -> None:
        """Take everything that `state` holds from the checkpoint in `directory`, or only `sections` of it."""
        state = {section: held for section, held in self.state().items() if not sections or section in sections}
        checkpoint.load(directory, state)
        self.model.load_state_dict(state["model"])
        self.optimizer.restored(state)

    def fine_tune(self, config: fine_tune.Config) -> None:
        """Take the weights that `config` chooses from another training's checkpoint."""
        weights = self.model.state_dict()
        fine_tune.load(config, weights)
        self.model.load_state_dict(OrderedDict(weights))
        self.optimizer.restored({})

    def step(self, batch: Batch, number: int) -> torch.Tensor:
        """Make one update; return the sum of the rank's example losses, a tensor that nobody has waited for."""
        torch.manual_seed((self.request.seed * 1_000_003 + number) * 4_099 + self.here.rank)
        batch = batch.to(self.here.device)
        self.optimizer.begin(number, self.position.epoch)
        with torch.autocast(self.here.device.type, torch.bfloat16, enabled=self.request.config.precision == "bfloat16"):
            query_BD, item_MD = self.model(batch.sparse, batch.query_dense_BF, batch.item_dense_MF)
        query_BD, item_MD = query_BD.float(), item_MD.float()
        loss_B = self.loss(query_BD, item_MD, batch.item_rows_M, self.log_expected[batch.item_rows_M])
        total = loss_B.sum()
        # Ranks' gradients are averaged; this makes the average the gradient of the mean over the global batch.
        self.optimizer.backward(total * self.here.num_ranks / batch.global_rows)
        self.optimizer.end()
        return total.detach()

    def epoch(self, number: int, consumed: tuple[Interval, ...]) -> Shard:
        """Return this rank's share of what is left of an epoch."""
        config = self.request.config
        order = Order(self.reader.block_rows, seed=self.request.seed, epoch=number, shuffle_rows=config.shuffle_rows)
        return Shard(
            self.reader,
            order,
            self.feed.columns,
            batch_size=config.batch_size,
            rank=self.here.rank,
            num_ranks=self.here.num_ranks,
            consumed=consumed,
        )


def run(request: Request, sink: Sink) -> artifacts.Checkpoint:
    """Train on every example of `request.data` and return the checkpoint.

    A rerun of a killed training takes up its last checkpoint and ends where the undisturbed one would have.
    """
    with distributed.world(request.config.sharding.device) as here:
        work = Pending(request.output)
        if here.is_first:
            work.path.mkdir(parents=True, exist_ok=True)
        here.barrier()
        trainer = Trainer(request, here)
        steps, state = work.path / "steps", work.path / "state"
        if resumed := state if state.exists() else checkpoint.latest(steps):
            trainer.restore(resumed)
            trainer.position = checkpoint.position(resumed)
        elif request.base is not None:
            trainer.restore(
                request.base.state, *(("model", "optimizer") if request.config.restore_optimizer else ("model",))
            )
        elif request.config.fine_tune_from is not None:
            trainer.fine_tune(request.config.fine_tune_from)
        curve = _train(trainer, steps, sink)
        trainer.optimizer.finish()
        if resumed != state:
            checkpoint.save(state, trainer.state(), trainer.position, here)
        if here.is_first:
            _commit(work, request, trainer.position, curve)
        here.barrier()
        return artifacts.Checkpoint.load(request.output)


def _train(trainer: Trainer, steps: Path, sink: Sink) -> list[dict[str, float]]:
    """Run the epochs that are left; return the points of the loss curve."""
    config = trainer.request.config
    num_epochs = config.num_epochs if trainer.request.base is None else config.num_warm_epochs
    meter = _Meter(trainer, num_epochs, steps, sink)
    for epoch in range(trainer.position.epoch, num_epochs):
        shard = trainer.epoch(epoch, trainer.position.consumed)
        batches = prefetch(trainer.feed.batches(shard, epoch=epoch, step=trainer.position.step))
        for batch, consumed in meter.waiting(batches):
            loss = trainer.step(batch, trainer.position.step)
            meter.count(loss, batch, consumed)
            if trainer.position.step % config.log_every_steps == 0:
                meter.report()
            if trainer.position.step % config.checkpoint_every_steps == 0:
                meter.report()
                meter.settle()
                checkpoint.save(
                    steps / f"step-{trainer.position.step}", trainer.state(), trainer.position, trainer.here
                )
                if trainer.here.is_first:
                    files.keep_newest(steps, config.keep_checkpoints)
        meter.end_epoch()
    meter.report()
    if trainer.here.is_first:
        _write_curve(steps.parent / "curve.parquet", meter.curve)
    return meter.curve


class _Meter:
    """Counts examples and losses without waiting for the device; keeps `trainer.position` up to date."""

    def __init__(self, trainer: Trainer, num_epochs: int, steps: Path, sink: Sink) -> None:
        self._trainer, self._sink = trainer, sink
        self._total = trainer.reader.num_rows * num_epochs
        self._loss_sum = torch.zeros(1, dtype=torch.float64, device=trainer.here.device)
        self._consumed: list[Interval] = []
        self._curve_path = steps.parent / "curve.parquet"
        self._since, self._waited = time.monotonic(), 0.0
        self._done = self._reported = trainer.position.epoch * trainer.reader.num_rows + sum(
            b - a for a, b in trainer.position.consumed
        )
        self._recent = torch.zeros_like(self._loss_sum)
        self.curve: list[dict[str, float]] = _read_curve(self._curve_path, trainer.position.step)

    def waiting(self, batches: Iterator[Any]) -> Iterator[Any]:
        """Yield `batches`, measuring how long each was waited for."""
        while True:
            started = time.monotonic()
            item = next(batches, None)
            self._waited += time.monotonic() - started
            if item is None:
                return
            yield item

    def count(self, loss: torch.Tensor, batch: Batch, consumed: list[Interval]) -> None:
        """Book one step."""
        self._loss_sum += loss
        self._recent += loss
        self._consumed += consumed
        self._done += batch.global_rows
        position = self._trainer.position
        self._trainer.position = position.model_copy(update={"step": position.step + 1})

    def report(self) -> None:
        """Tell the loss since the last report, averaged over all ranks, and the speed.

        Raises:
            ValueError: the loss is no finite number.
        """
        if self._done == self._reported:
            return
        (loss_sum,) = self._trainer.here.sum(self._recent.clone()).tolist()
        self._recent.zero_()
        step = self._trainer.position.step
        if not math.isfinite(loss_sum):
            raise ValueError(
                f"the loss is {loss_sum} at step {step}; lower train.sparse_optimizer.learning_rate or "
                "train.dense_optimizer.learning_rate, or look for extreme values in the raw features"
            )
        elapsed = time.monotonic() - self._since
        metrics = {
            "loss": loss_sum / (self._done - self._reported),
            "examples_per_second": (self._done - self._reported) / elapsed,
            "data_wait_share": self._waited / elapsed,
        }
        self._since, self._waited, self._reported = time.monotonic(), 0.0, self._done
        if self._trainer.here.is_first:
            self.curve.append({"step": step, "examples": self._done, **metrics})
            event = Event(stage=_STAGE, done=self._done, total=self._total, unit="examples", step=step, metrics=metrics)
            self._sink(event)

    def settle(self) -> None:
        """Bring all ranks' counts together in `trainer.position`, and save the curve beside the checkpoint."""
        here, position = self._trainer.here, self._trainer.position
        (loss_sum,) = here.sum(self._loss_sum.clone()).tolist()
        self._loss_sum.zero_()
        gathered = [interval for part in here.gather(self._consumed) for interval in part]
        self._consumed = []
        consumed = tuple(merge([*position.consumed, *gathered]))
        update = {"consumed": consumed, "loss_sum": position.loss_sum + loss_sum}
        self._trainer.position = position.model_copy(update=update)
        if here.is_first:
            _write_curve(self._curve_path, self.curve)

    def end_epoch(self) -> None:
        """Check that no row was lost or read twice, and start the next epoch's count."""
        self.settle()
        position, num_rows = self._trainer.position, self._trainer.reader.num_rows
        assert position.consumed == ((0, num_rows),), f"an epoch of {num_rows} rows consumed {position.consumed}"
        self._trainer.position = Position(
            step=position.step, epoch=position.epoch + 1, last_loss=position.loss_sum / num_rows
        )


def _commit(work: Pending, request: Request, position: Position, curve: list[dict[str, float]]) -> None:
    shutil.rmtree(work.path / "steps", ignore_errors=True)
    work.commit(
        artifacts.Checkpoint,
        request,
        num_rows=request.data.num_rows,
        day=request.data.day,
        num_steps=position.step,
        loss=position.last_loss,
        examples_per_second=_speed(curve),
        num_ranks=request.num_ranks,
        warm_started_from=request.base.digest if request.base else None,
    )


def _speed(curve: list[dict[str, float]]) -> float:
    """Return the examples per second over the whole curve: reading, waiting and updating, without the start-up."""
    examples = [0.0, *(point["examples"] for point in curve)]
    counts = [after - before for before, after in itertools.pairwise(examples)]
    seconds = [count / point["examples_per_second"] for count, point in zip(counts, curve, strict=True)]
    return sum(counts) / sum(seconds)


def _write_curve(path: Path, curve: list[dict[str, float]]) -> None:
    aside = path.with_name(f".{path.name}.partial")
    pq.write_table(pa.Table.from_pylist(curve), aside)
    aside.rename(path)


def _read_curve(path: Path, step: int) -> list[dict[str, float]]:
    if not step:
        return []
    return [point for point in pq.read_table(path).to_pylist() if point["step"] <= step]
