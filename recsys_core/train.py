"""The training stage: every rank of torchrun runs `run`, and the first one writes the artifact."""

import contextlib
import datetime
import math
import shutil
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator
from torchrec.distributed.model_parallel import DistributedModelParallel

from recsys_core import artifacts, best, checkpoint, compiling, distributed, loader, optim, sharding, stopping, tracing
from recsys_core.artifacts import Frozen, LabelledData, Pending, TrainingData
from recsys_core.batch import moved
from recsys_core.checkpoint import Position, carrying, fine_tune, owners
from recsys_core.distributed import World
from recsys_core.loader import Budget, Interval, Order, Shard
from recsys_core.lookup import OneOf
from recsys_core.losses import sampled_softmax
from recsys_core.meter import Curve, Meter, speed
from recsys_core.objective import Objective, Retrieval
from recsys_core.progress import Event, Sink, Stopped
from recsys_core.readers import Selected, Selection
from recsys_core.sharding import Config as Sharding
from recsys_core.starting import Base, Start

_BEST = "best"
_EPOCHS = {"num_epochs", "num_warm_epochs"}

_WITHOUT_NARROW_NUMBERS = ("DEFAULT", "NO AVX", "AVX2")  # as torch calls what a CPU can


class Config(Frozen):
    """YAML section `train`."""

    batch_size: int = Field(default=1024, ge=1, description="examples per rank and step")
    num_epochs: int = Field(
        default=3, ge=1, description="passes over the examples when training starts from random weights"
    )
    num_warm_epochs: int = Field(
        default=1, ge=1, description="passes over the new examples when it continues a release"
    )
    num_steps: int | None = Field(
        default=None, ge=1, description="train for so many steps instead, in as many passes as they take"
    )
    warm_start: bool = Field(default=True, description="continue from the newest release of an earlier day")
    on_change: Literal["carry", "cold", "refuse"] = Field(
        default="carry",
        description="where that release has other features, tables or layers: take over what still means the same, "
        "train from random weights on a cold start's window, or stop before anything is done",
    )
    drop_remainder: bool = Field(
        default=False,
        description="leave out what an epoch's rows are more than whole batches of all ranks; other rows in each epoch",
    )
    shuffle_rows: int = Field(
        default=131_072, ge=0, description="rows that are mixed in memory; 0 keeps the table's order"
    )
    selection: Selection = Field(default=Selection(), description="which rows are trained on")
    cost_column: str | None = Field(
        default=None, description="a column that says what a row costs, or a list's, whose length is its cost"
    )
    max_cost: float | None = Field(
        default=None, gt=0, description="the most that the rows of a batch may cost together; batch_size limits it too"
    )
    checkpoint_every_steps: int = Field(
        default=1_000, ge=1, description="a killed training loses no more steps than this"
    )
    async_checkpoints: bool = Field(
        default=False, description="write checkpoints from a copy in memory while training goes on"
    )
    keep_checkpoints: int = Field(default=1, ge=1, description="of a training that is under way, the newest so many")
    restore_optimizer: bool = Field(
        default=True, description="false: a warm start takes the release's weights, and its optimizers start anew"
    )
    fine_tune_from: fine_tune.Config | None = None
    log_every_steps: int = Field(default=20, ge=1)
    evaluate_every_steps: int | None = Field(
        default=None, ge=1, description="measure the split `valid` so often and keep the best state; null: the last one"
    )
    evaluate_every_epochs: int | None = Field(
        default=None, ge=1, description="likewise after whole epochs, alone or beside evaluate_every_steps"
    )
    keep_best: int = Field(default=1, ge=1, description="the best so many states stay; training ends with the first")
    early_stopping_patience: int | None = Field(
        default=None, ge=1, description="stop after so many evaluations in a row without a better one; null: never"
    )
    best_metric: Literal["auc", "gauc", "logloss", "normalized_entropy", "accuracy"] = Field(
        default="auc", description="the metric by which the best state is chosen"
    )
    tensorboard: bool = Field(
        default=False, description="write the curves for TensorBoard too, to train.tensorboard beside the artifact"
    )
    profile: tracing.Config | None = Field(
        default=None, description="record some steps with torch's profiler, to train.profile beside the artifact"
    )
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        default="float32",
        description="of matrix products; weights, losses and optimizers stay float32; float16, for GPUs without "
        "bfloat16, scales the loss and waits for the device in every step",
    )
    compile: bool = Field(
        default=False, description="compile all but the tables with torch.compile, which needs a C++ compiler"
    )
    sparse_optimizer: optim.SparseConfig = optim.SparseConfig()
    dense_optimizer: optim.DenseConfig = optim.DenseConfig()
    sharding: Sharding = Sharding()

    @model_validator(mode="after")
    def _can_run(self) -> Self:
        optim.check(self.sparse_optimizer, self.sharding.device, splits_rows=self.sharding.splits_rows)
        if self.num_steps is not None and (given := _EPOCHS & self.model_fields_set):
            raise ValueError(
                f"num_steps and {' and '.join(sorted(given))} both say how long to train; give one of them"
            )
        if (self.cost_column is None) != (self.max_cost is None):
            raise ValueError("cost_column and max_cost go together; give both, or neither")
        if self.drop_remainder and self.max_cost is not None:
            raise ValueError("drop_remainder: batches by max_cost have no one size; give one of them")
        for name in ("early_stopping_patience", "keep_best"):
            if getattr(self, name) != type(self).model_fields[name].default and not self.evaluates:
                raise ValueError(
                    f"{name} counts evaluations; set evaluate_every_steps or evaluate_every_epochs too, or leave it out"
                )
        return self

    @model_serializer(mode="wrap")
    def _as_given(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out the epochs that `num_steps` takes the place of: read back, they would contradict it."""
        fields = dump(self)
        if self.num_steps is not None:
            fields = {name: value for name, value in fields.items() if name not in _EPOCHS}
        return fields

    @property
    def evaluates(self) -> bool:
        """Whether the state is measured while training goes on."""
        return self.evaluate_every_steps is not None or self.evaluate_every_epochs is not None


class Request(artifacts.Request):
    """What the training of a retrieval model needs; `base` is the checkpoint to continue from.

    `base_engine` are the features that it was trained with, null: where that training had them. `pretrained` are the
    `fingerprints` of the files that tables start from.
    """

    UNKEYED: ClassVar[frozenset[str]] = artifacts.Request.UNKEYED | {"base_engine"}

    config: Config
    model: Annotated[Frozen, OneOf("recsys_core.models")]
    sampler: Annotated[Frozen, OneOf("recsys_core.samplers")]
    loss: sampled_softmax.Config
    num_ranks: int
    seed: int
    data: TrainingData
    base: artifacts.Checkpoint | None
    base_engine: Path | None = None
    pretrained: dict[str, str] = Field(default={})


def run(request: Request, sink: Sink) -> artifacts.Checkpoint:
    """Train on every example of `request.data` and return the checkpoint.

    A rerun of a killed training takes up its last checkpoint and ends where the undisturbed one would have.
    """
    with distributed.world(request.config.sharding.device) as here:
        made, data = trainer(request, here), request.data
        base = None if request.base is None else Base(request.base, request.base_engine)
        return fit(made, request, base, sink, day=data.day, files=request.pretrained, data=data)


def trainer(request: Request, here: World) -> "Trainer":
    """Return what trains a retrieval model on this rank."""
    objective = Retrieval(
        request.model,
        request.sampler,
        request.loss,
        request.data,
        batch_size=request.config.batch_size,
        seed=request.seed,
        here=here,
    )
    return Trainer(
        objective,
        request.config,
        here,
        seed=request.seed,
        warm=request.base is not None,
        earlier_plans=earlier_plans(request, request.base),
    )


def earlier_plans(request: artifacts.Request, base: artifacts.Checkpoint | None) -> list[Path]:
    """Return the folders whose plan of tables may be taken again: of a killed try, and of what is continued."""
    return [Pending(request.output).path, *([base.path] if base else [])]


class Trainer:
    """The state of one training on one rank: model, optimizers, and where it stands."""

    def __init__(
        self,
        objective: Objective,
        config: Config,
        here: World,
        *,
        seed: int,
        warm: bool = False,
        earlier_plans: Sequence[Path] = (),
    ) -> None:
        """Shard the objective's model and make the optimizers.

        `warm`: it is going to continue another training. `earlier_plans` are folders whose plan may be taken again.
        """
        self.objective, self.config, self.here, self.seed = objective, config, here, seed
        self.num_epochs = config.num_warm_epochs if warm else config.num_epochs
        if config.num_steps is not None:
            # A step takes a row at least.
            self.num_epochs = config.num_steps
        specs = objective.engine.tables
        frozen = {table.name for table in specs if not table.trainable}
        optim.fuse(config.sparse_optimizer, objective.tables, here.device, frozen)
        self._owners = {table: torch.from_numpy(rows) for table, rows in objective.engine.owners().items()}
        growing = {table.name: table.max_rows for table in specs if table.max_rows is not None}
        self.plan, self.plan_told = sharding.plan(
            objective.model,
            config.sharding,
            here,
            batch_size=config.batch_size,
            max_rows=growing,
            earlier=earlier_plans,
        )
        tables = [table.name for table in specs]
        initializers = {table.name: table.initializer for table in specs if table.initializer is not None}
        with sharding.naming_memory(self.plan):
            self.model: DistributedModelParallel = sharding.shard(
                objective.model, tables, config.sharding, here, seed, planned=self.plan, initializers=initializers
            )
        if config.compile:
            compiling.compile_in_place(objective.dense, here.device)
        scaler = optim.Scaler(objective.dense, here) if config.precision == "float16" else None
        self.optimizer = optim.Optimizer(config.sparse_optimizer, config.dense_optimizer, self.model, scaler)
        self.start = Start(
            objective,
            here,
            self._owners,
            (config.sparse_optimizer, config.dense_optimizer),
            state=self.state,
            restored=self.restored,
        )
        self.position = Position()
        self.saver = checkpoint.Saver(here, in_background=config.async_checkpoints)
        self._budget: Budget | None = None
        if config.cost_column is not None and config.max_cost is not None:
            self._budget = Budget(config.cost_column, config.max_cost)
        if config.selection != Selection():
            whole = objective.reader
            counts = here.share(lambda: Selected(whole, config.selection).state())
            objective.reader = Selected(whole, config.selection, counts)
            if not objective.reader.num_rows:
                raise ValueError(f"train.selection keeps none of the {whole.num_rows} rows; widen it")
        num_rows = objective.reader.num_rows
        if config.drop_remainder and num_rows < self.full_rows:
            raise ValueError(
                f"train.drop_remainder: {num_rows:,} rows are less than a batch of {self.full_rows:,} of all ranks, so "
                "that nothing would be trained on; lower train.batch_size"
            )

    def state(self) -> dict[str, Any]:
        """Return the tensors of a checkpoint, which `restore` fills in place."""
        state = {"model": self.model.state_dict(), **self.optimizer.state()}
        return state | ({owners.SECTION: self._owners} if self._owners else {})

    def restore(self, directory: Path, *sections: str) -> None:
        """Take everything that `state` holds from the checkpoint in `directory`, or only `sections` of it."""
        state = {section: held for section, held in self.state().items() if not sections or section in sections}
        checkpoint.load(directory, state)
        self.restored(state)

    def begin(self, base: Base | None, files: Mapping[str, str], sink: Sink) -> carrying.Report | None:
        """Take the first weights that are not drawn: from files of these fingerprints, `base`, or a checkpoint.

        Returns:
            What was taken over of another training, where that is not simply all.
        """
        config = self.config
        if base is not None:
            choice = {"on_change": config.on_change, "restore_optimizer": config.restore_optimizer}
            return self.start.from_base(base, files, sink, **choice)
        self.start.from_files(files, sink)
        return None if config.fine_tune_from is None else self.start.from_other(config.fine_tune_from)

    def restored(self, state: dict[str, Any]) -> None:
        """Take back what `state` returned, or some sections of it, after a checkpoint has filled it in."""
        self.model.load_state_dict(OrderedDict(state["model"]))
        self.optimizer.restored(state)

    def arriving(self, batches: Iterable[tuple[Any, Any]]) -> Iterator[tuple[Any, Any]]:
        """Yield `batches`, on the device; while one trains, the next one's ids go to the ranks that have their rows.

        Every rank has as many batches.
        """
        before: tuple[Any, Any] | None = None
        for batch, place in batches:
            there = moved(batch, self.here.device)
            if self.here.num_ranks > 1:
                self.objective.tables.send(there.sparse)
            if before is not None:
                yield before
            before = there, place
        if before is not None:
            yield before

    def step(self, batch: Any, number: int) -> torch.Tensor:
        """Make one update; return the rank's share of the batch's loss, a tensor that nobody has waited for."""
        torch.manual_seed((self.seed * 1_000_003 + number) * 4_099 + self.here.rank)
        self.optimizer.begin(number, self.position.epoch)
        with self._precision():
            loss = self.objective.loss(self._forward, batch, self.here)
        # Ranks' gradients are averaged; this makes the average the gradient of the mean over the global batch.
        self.optimizer.backward(loss * self.here.num_ranks / batch.global_rows)
        self.optimizer.end()
        return loss.detach()

    def _forward(self, *inputs: Any) -> Any:
        """Call the model; what comes out is float32, whatever it was computed in."""
        outputs = self.model(*inputs)
        return tuple(output.float() for output in outputs) if isinstance(outputs, tuple) else outputs.float()

    def _precision(self) -> torch.autocast:
        kind = torch.float16 if self.config.precision == "float16" else torch.bfloat16
        return torch.autocast(self.here.device.type, kind, enabled=self.config.precision != "float32")

    def order(self, epoch: int) -> Order:
        """Return the order in which an epoch reads the rows."""
        return Order(
            self.objective.reader.block_rows,
            seed=self.seed,
            epoch=epoch,
            shuffle_rows=self.config.shuffle_rows,
            rows_per_turn=self.config.batch_size,
        )

    def rows(self, epoch: int, places: list[Interval]) -> pa.Table:
        """Read the rows at `places` of an epoch's order."""
        return pa.Table.from_batches(
            loader.read(self.objective.reader, self.order(epoch), places, self.objective.feed.columns)
        )

    def epoch(self) -> Shard:
        """Return this rank's share of what is left of the epoch."""
        config = self.config
        return Shard(
            self.objective.reader,
            self.order(self.position.epoch),
            self.objective.feed.columns,
            batch_size=config.batch_size,
            rank=self.here.rank,
            num_ranks=self.here.num_ranks,
            consumed=self.position.consumed,
            budget=self._budget,
            gather=self.here.gather,
        )

    def judge(self, meter: Meter, directory: Path) -> None:
        """Measure the state and tell the figures; keep it in `directory` if it is among the best.

        Raises:
            ValueError: there is nothing to validate on, or it does not have `train.best_metric`.
        """
        self.report(meter)
        found = self.objective.validate(self.model, self.here)
        self.position = best.ranked(self.position, found, self.config.best_metric, count=self.config.keep_best)
        if any(one.step == self.position.step for one in self.position.kept):
            self.save(best.place(directory, self.position.step))
            if self.here.is_first:
                best.tidy(directory, self.position)
        meter.tell(self.position, found)

    def touched(self) -> dict[str, float]:
        """Return the share of each table's rows that an update has ever touched; every rank calls this."""
        counts: dict[str, int] = {}
        sizes: dict[str, int] = {}
        for part in self.here.gather(self.optimizer.touched_rows()):
            for table, (count, size) in part.items():
                counts[table], sizes[table] = counts.get(table, 0) + count, size
        return {table: counts[table] / sizes[table] for table in sorted(counts)}

    def report(self, meter: Meter) -> None:
        """Tell the loss and the lengths of weights and gradients; every rank calls this after the same steps."""
        known = self.optimizer.learning_rates() | self.objective.figures(self.here)
        meter.report(self.position, self.optimizer.norms(), known)

    @property
    def is_over(self) -> bool:
        """Whether training ends within an epoch: by `num_steps`, or as enough evaluations in a row were no better."""
        patience, num_steps = self.config.early_stopping_patience, self.config.num_steps
        stale = patience is not None and self.position.num_stale >= patience
        return stale or (num_steps is not None and self.position.step >= num_steps)

    def is_remainder(self, batch: Any) -> bool:
        """Whether the batch, of all ranks together, is what `drop_remainder` leaves out."""
        return self.config.drop_remainder and batch.global_rows < self.full_rows

    @property
    def full_rows(self) -> int:
        """The rows of a whole batch of all ranks."""
        return self.config.batch_size * self.here.num_ranks

    @property
    def evaluates_epoch(self) -> bool:
        """Whether the state is to be measured at the end of this epoch, and has not been."""
        every, position = self.config.evaluate_every_epochs, self.position
        whole = position.consumed == ((0, self.objective.reader.num_rows),)
        is_due = every is not None and (position.epoch + 1) % every == 0
        return is_due and whole and position.validated_step != position.step

    def save(self, directory: Path, *, keep: int | None = None) -> None:
        """Write a checkpoint, in the background if the config says so; every rank calls this.

        With `keep`, older ones beside it than the newest so many are deleted.

        Raises:
            ValueError: a weight, or what an optimizer keeps of it, is no finite number.
        """
        state = self.state()
        self._refuse_nonfinite(state)
        position = self.position.model_copy(update={"source": self.objective.reader.fingerprint})
        self.saver.save(directory, state, position, keep=keep)

    def _refuse_nonfinite(self, state: dict[str, Any]) -> None:
        # The last update may have made what no loss has seen yet, and rows of a table wait long for their next look-up.
        extremes = checkpoint.extremes(state, self.here.device)
        bad = [
            name
            for name, value in zip(extremes, torch.stack([*extremes.values()]).tolist(), strict=True)
            if not math.isfinite(value)
        ]
        if found := sorted({name for names in self.here.gather(bad) for name in names}):
            raise ValueError(
                f"after step {self.position.step:,} these are not all finite numbers: {', '.join(found)}; no "
                "checkpoint is made of them, and the last one is kept. Lower the learning rates of train, or set "
                "train.dense_optimizer.max_gradient_norm or train.sparse_optimizer.max_gradient"
            )


def fit(
    trainer: Trainer,
    request: artifacts.Request,
    base: Base | None,
    sink: Sink,
    *,
    day: datetime.date,
    files: Mapping[str, str],
    data: TrainingData | LabelledData,
) -> artifacts.Checkpoint:
    """Train to the end, from the last checkpoint of a killed or stopped try, from `base`, or from start weights.

    `files` are the fingerprints of the files that tables start from, `data` is what the objective reads.

    Raises:
        Stopped: the process or another rank got SIGTERM or SIGINT; a checkpoint was written first.
    """
    here, work = trainer.here, Pending(request.output)
    if here.is_first:
        work.path.mkdir(parents=True, exist_ok=True)
        trainer.start.lineage(data, request.output).save(work.path)
        _tell_plan(trainer, work, sink)
    here.barrier()
    steps, state = work.path / "steps", work.path / artifacts.STATE
    if resumed := state if state.exists() else checkpoint.latest(steps):
        with checkpoint.resuming(resumed):
            trainer.restore(resumed)
            trainer.position = checkpoint.position(resumed)
        if resumed != state:
            trainer.position = best.still_there(work.path / _BEST, trainer.position, here)
        trainer.position.refuse_other_source(trainer.objective.reader.fingerprint)
        _tell_restart(trainer, sink)
    else:
        _tell_start(trainer, trainer.begin(base, files, sink), work, sink)
    with contextlib.ExitStack() as inside:
        inside.enter_context(sharding.naming_memory(trainer.plan))
        told = inside.enter_context(stopping.signals())
        step, beside = trainer.position.step, request.output
        if trainer.config.tensorboard and here.is_first:
            events = beside.with_name(f"{beside.name}.tensorboard")
            sink = inside.enter_context(tracing.tensorboard(events, sink, step=step))
        traces = beside.with_name(f"{beside.name}.profile")
        tick = inside.enter_context(tracing.profiled(trainer.config.profile, traces, here, step=step))
        curve = _train(trainer, work, sink, told, tick)
    trainer.saver.wait()
    trainer.optimizer.finish()
    if resumed != state:
        if trainer.position.kept:
            trainer.restore(best.place(work.path / _BEST, trainer.position.kept[0].step))
        trainer.save(state)
        trainer.saver.wait()
    touched = trainer.touched()
    if here.is_first:
        shutil.rmtree(steps, ignore_errors=True)
        work.commit(
            artifacts.Checkpoint,
            request,
            num_rows=trainer.objective.reader.num_rows,
            day=day,
            num_steps=trainer.position.step,
            loss=trainer.position.last_loss,
            examples_per_second=speed(curve),
            num_ranks=here.num_ranks,
            warm_started_from=base.checkpoint.digest if base else None,
            touched=touched,
            kept=best.finish(work.path / _BEST, trainer.position, trainer.config.best_metric),
        )
    here.barrier()
    return artifacts.Checkpoint.load(request.output)


def _tell_restart(trainer: Trainer, sink: Sink) -> None:
    """Tell that a process was lost, and how much of the work with it."""
    if trainer.here.is_first and (number := trainer.here.num_restarts):
        told = f"a process was lost; restart {number} goes on from step {trainer.position.step:,}"
        sink(Event(stage="train", message=told))


def _tell_start(trainer: Trainer, report: carrying.Report | None, work: Pending, sink: Sink) -> None:
    """Keep what was taken over of another training, and tell it."""
    if report is not None and trainer.here.is_first:
        report.save(work.path)
        sink(Event(stage="train", message=report.text))


def _tell_plan(trainer: Trainer, work: Pending, sink: Sink) -> None:
    """Keep the plan of the tables, and tell it with how well they serve their ids."""
    trainer.plan.save(work.path)
    told = f"plan ({trainer.plan_told})\n{trainer.plan.text()}"
    sys.stderr.write(f"{told}\n")
    sink(Event(stage="train", metrics=trainer.objective.engine.figures, message=told))
    precision, instructions = trainer.config.precision, torch.backends.cpu.get_cpu_capability()
    if trainer.here.device.type == "cpu" and precision != "float32" and instructions in _WITHOUT_NARROW_NUMBERS:
        slow = f"this CPU ({instructions}) computes {precision} in software, many times slower than float32"
        sink(Event(stage="train", message=f"train.precision: {slow}; leave it out here"))


def _train(trainer: Trainer, work: Pending, sink: Sink, told: threading.Event, tick: Callable[[], None]) -> Curve:
    """Run the epochs that are left, calling `tick` after each step; return the points of the loss curve."""
    config, steps = trainer.config, work.path / "steps"
    meter = _meter(trainer, work, sink)
    agreement = stopping.Agreement(trainer.here, told, trainer.position.step, every_steps=config.log_every_steps)
    for epoch in range(trainer.position.epoch, trainer.num_epochs):
        feed = trainer.objective.feed.batches(
            trainer.epoch(), epoch=epoch, step=trainer.position.step, pins=trainer.here.device.type == "cuda"
        )
        with contextlib.closing(feed) as batches:
            for batch, consumed in trainer.arriving(meter.waiting(batches)):
                if trainer.is_over or trainer.is_remainder(batch):
                    break
                loss = trainer.step(batch, trainer.position.step)
                trainer.position = meter.count(trainer.position, loss, batch, consumed)
                tick()
                step = trainer.position.step
                evaluates = config.evaluate_every_steps is not None and step % config.evaluate_every_steps == 0
                saves = step % config.checkpoint_every_steps == 0
                stops = agreement.is_due(step) and agreement.ask(step)
                if step % config.log_every_steps == 0 or saves or stops:
                    trainer.report(meter)
                if evaluates:
                    trainer.judge(meter, work.path / _BEST)
                if saves or stops:
                    trainer.position = meter.settle(trainer.position)
                    trainer.save(steps / f"step-{step}", keep=config.keep_checkpoints)
                if stops:
                    trainer.saver.wait()
                    raise Stopped(meter.stopped(trainer.position))
        trainer.position = meter.settle(trainer.position)
        if trainer.evaluates_epoch:
            trainer.judge(meter, work.path / _BEST)
        trainer.position = _end_epoch(trainer, trainer.position)
        if trainer.is_over:
            break
    trainer.report(meter)
    meter.write_curve()
    return meter.curve


def _meter(trainer: Trainer, work: Pending, sink: Sink) -> Meter:
    bad_rows = work.destination.with_name(f"{work.destination.name}.bad_rows.parquet")

    def keep_rows(epoch: int, places: list[Interval]) -> str:
        pq.write_table(trainer.rows(epoch, places), bad_rows)
        return str(bad_rows)

    num_rows, num_steps = trainer.objective.reader.num_rows, trainer.config.num_steps
    total = num_rows * trainer.num_epochs
    if trainer.config.drop_remainder:
        total = num_rows // trainer.full_rows * trainer.full_rows * trainer.num_epochs
    if num_steps is not None:
        total = num_steps * min(num_rows, trainer.config.batch_size * trainer.here.num_ranks)
    return Meter(
        trainer.here,
        trainer.position,
        num_rows=num_rows,
        total=total,
        curve_path=work.path / "curve.parquet",
        sink=sink,
        keep_rows=keep_rows,
    )


def _end_epoch(trainer: Trainer, position: Position) -> Position:
    """Check that no row was lost or read twice, and return the start of the next epoch, if there is one."""
    num_rows, num_read = trainer.objective.reader.num_rows, sum(b - a for a, b in position.consumed)
    over = trainer.is_over
    if trainer.config.drop_remainder:
        assert over or num_rows - num_read < trainer.full_rows, f"an epoch of {num_rows} rows: {position.consumed}"
    else:
        assert over or position.consumed == ((0, num_rows),), f"an epoch of {num_rows} rows: {position.consumed}"
    return position.model_copy(
        update={
            "epoch": trainer.num_epochs if over else position.epoch + 1,
            "consumed": (),
            "loss_sum": 0.0,
            "last_loss": position.loss_sum / num_read,
        }
    )
