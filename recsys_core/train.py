"""The training stage: every rank of torchrun runs `run`, and the first one writes the artifact."""

import datetime
import itertools
import math
import shutil
import sys
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pydantic import Field, model_validator
from torchrec.distributed.model_parallel import DistributedModelParallel

from recsys_core import artifacts, checkpoint, distributed, optim, sharding
from recsys_core.artifacts import Frozen, Pending, TrainingData
from recsys_core.checkpoint import Position, files, fine_tune, owners
from recsys_core.distributed import World
from recsys_core.loader import Budget, Interval, Order, Shard, merge, prefetch
from recsys_core.lookup import OneOf
from recsys_core.losses import sampled_softmax
from recsys_core.objective import Objective, Retrieval
from recsys_core.progress import Event, Sink
from recsys_core.readers import Selected, Selection
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
    keep_checkpoints: int = Field(default=1, ge=1, description="of a training that is under way, the newest so many")
    restore_optimizer: bool = Field(
        default=True, description="false: a warm start takes the release's weights, and its optimizers start anew"
    )
    fine_tune_from: fine_tune.Config | None = None
    log_every_steps: int = Field(default=20, ge=1)
    evaluate_every_steps: int | None = Field(
        default=None, ge=1, description="measure the split `valid` so often and keep the best state; null: the last one"
    )
    early_stopping_patience: int | None = Field(
        default=None, ge=1, description="stop after so many evaluations in a row without a better one; null: never"
    )
    best_metric: Literal["auc", "gauc", "logloss", "normalized_entropy"] = Field(
        default="auc", description="the metric by which the best state is chosen"
    )
    precision: Literal["float32", "bfloat16"] = Field(
        default="float32", description="of matrix products; weights, losses and optimizers stay float32"
    )
    sparse_optimizer: optim.SparseConfig = optim.SparseConfig()
    dense_optimizer: optim.DenseConfig = optim.DenseConfig()
    sharding: Sharding = Sharding()

    @model_validator(mode="after")
    def _can_run(self) -> Self:
        optim.check(self.sparse_optimizer, self.sharding.device)
        if (self.cost_column is None) != (self.max_cost is None):
            raise ValueError("cost_column and max_cost go together; give both, or neither")
        if self.early_stopping_patience is not None and self.evaluate_every_steps is None:
            raise ValueError(
                "early_stopping_patience counts evaluations; set evaluate_every_steps too, or leave it out"
            )
        return self


class Request(artifacts.Request):
    """What the training of a retrieval model needs; `base` is the checkpoint to continue from."""

    config: Config
    model: Annotated[Frozen, OneOf("recsys_core.models")]
    sampler: Annotated[Frozen, OneOf("recsys_core.samplers")]
    loss: sampled_softmax.Config
    num_ranks: int
    seed: int
    data: TrainingData
    base: artifacts.Checkpoint | None


def run(request: Request, sink: Sink) -> artifacts.Checkpoint:
    """Train on every example of `request.data` and return the checkpoint.

    A rerun of a killed training takes up its last checkpoint and ends where the undisturbed one would have.
    """
    with distributed.world(request.config.sharding.device) as here:
        return fit(trainer(request, here), request, request.base, sink, day=request.data.day)


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
        self.model: DistributedModelParallel = sharding.shard(
            objective.model, tables, config.sharding, here, seed, planned=self.plan, initializers=initializers
        )
        self.optimizer = optim.Optimizer(config.sparse_optimizer, config.dense_optimizer, self.model)
        self.position = Position()
        self._budget: Budget | None = None
        if config.cost_column is not None and config.max_cost is not None:
            self._budget = Budget(config.cost_column, config.max_cost)
        if config.selection != Selection():
            whole = objective.reader
            counts = here.share(lambda: Selected(whole, config.selection).state())
            objective.reader = Selected(whole, config.selection, counts)
            if not objective.reader.num_rows:
                raise ValueError(f"train.selection keeps none of the {whole.num_rows} rows; widen it")

    def state(self) -> dict[str, Any]:
        """Return the tensors of a checkpoint, which `restore` fills in place."""
        state = {"model": self.model.state_dict(), **self.optimizer.state()}
        return state | ({owners.SECTION: self._owners} if self._owners else {})

    def restore(self, directory: Path, *sections: str) -> None:
        """Take everything that `state` holds from the checkpoint in `directory`, or only `sections` of it."""
        state = {section: held for section, held in self.state().items() if not sections or section in sections}
        checkpoint.load(directory, state)
        self.model.load_state_dict(state["model"])
        self.optimizer.restored(state)

    def inherit(self, directory: Path, *sections: str) -> None:
        """Take `sections` from the checkpoint of an earlier day, whose dynamic ids may have had other rows."""
        state = {section: held for section, held in self.state().items() if section in sections}
        owners.inherit(directory, state, self._owners)
        self.model.load_state_dict(state["model"])
        self.optimizer.restored(state)

    def fine_tune(self, config: fine_tune.Config) -> None:
        """Take the weights that `config` chooses from another training's checkpoint."""
        weights = self.model.state_dict()
        owners.refuse_other(config.path, fine_tune.load(config, weights), self._owners)
        self.model.load_state_dict(OrderedDict(weights))
        self.optimizer.restored({})

    def step(self, batch: Any, number: int) -> torch.Tensor:
        """Make one update; return the rank's share of the batch's loss, a tensor that nobody has waited for."""
        torch.manual_seed((self.seed * 1_000_003 + number) * 4_099 + self.here.rank)
        batch = batch.to(self.here.device)
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
        enabled = self.config.precision == "bfloat16"
        return torch.autocast(self.here.device.type, torch.bfloat16, enabled=enabled)

    def epoch(self) -> Shard:
        """Return this rank's share of what is left of the epoch."""
        config, reader = self.config, self.objective.reader
        order = Order(
            reader.block_rows,
            seed=self.seed,
            epoch=self.position.epoch,
            shuffle_rows=config.shuffle_rows,
            rows_per_turn=config.batch_size,
        )
        return Shard(
            reader,
            order,
            self.objective.feed.columns,
            batch_size=config.batch_size,
            rank=self.here.rank,
            num_ranks=self.here.num_ranks,
            consumed=self.position.consumed,
            budget=self._budget,
            gather=self.here.gather,
        )

    def judge(self, best: Path) -> dict[str, float]:
        """Validate, save the state to `best` if none was better, and return the figures.

        Raises:
            ValueError: there is nothing to validate on, or it does not have `train.best_metric`.
        """
        name, position = self.config.best_metric, self.position
        found = self.objective.validate(self.model, self.here)
        if name not in found:
            raise ValueError(f"train.best_metric: the validation rows have no {name}, only {', '.join(found)}")
        sign = 1 if name in ("auc", "gauc") else -1
        if position.best_value is None or sign * found[name] > sign * position.best_value:
            update = {"best_value": found[name], "best_step": position.step, "num_stale": 0}
            self.position = position.model_copy(update=update)
            self.save(best)
        else:
            self.position = position.model_copy(update={"num_stale": position.num_stale + 1})
        return found

    def touched(self) -> dict[str, float]:
        """Return the share of each table's rows that an update has ever touched; every rank calls this."""
        counts: dict[str, int] = {}
        sizes: dict[str, int] = {}
        for part in self.here.gather(self.optimizer.touched_rows()):
            for table, (count, size) in part.items():
                counts[table], sizes[table] = counts.get(table, 0) + count, size
        return {table: counts[table] / sizes[table] for table in sorted(counts)}

    @property
    def is_stale(self) -> bool:
        """Whether enough evaluations in a row were no better."""
        patience = self.config.early_stopping_patience
        return patience is not None and self.position.num_stale >= patience

    def save(self, directory: Path) -> None:
        """Write a checkpoint; every rank calls this."""
        position = self.position.model_copy(update={"source": self.objective.reader.fingerprint})
        checkpoint.save(directory, self.state(), position, self.here)


def fit(
    trainer: Trainer, request: artifacts.Request, base: artifacts.Checkpoint | None, sink: Sink, *, day: datetime.date
) -> artifacts.Checkpoint:
    """Train to the end, from the last checkpoint of a killed try, from `base`, or from random weights."""
    here, work = trainer.here, Pending(request.output)
    if here.is_first:
        work.path.mkdir(parents=True, exist_ok=True)
        trainer.plan.save(work.path)
        told = f"plan ({trainer.plan_told})\n{trainer.plan.text()}"
        sys.stderr.write(f"{told}\n")
        sink(Event(stage=_STAGE, metrics=trainer.objective.engine.figures, message=told))
    here.barrier()
    steps, state = work.path / "steps", work.path / "state"
    if resumed := state if state.exists() else checkpoint.latest(steps):
        trainer.restore(resumed)
        trainer.position = checkpoint.position(resumed)
        trainer.position.refuse_other_source(trainer.objective.reader.fingerprint)
    elif base is not None:
        trainer.inherit(base.state, *(("model", "optimizer") if trainer.config.restore_optimizer else ("model",)))
    elif trainer.config.fine_tune_from is not None:
        trainer.fine_tune(trainer.config.fine_tune_from)
    curve = _train(trainer, work.path, sink)
    trainer.optimizer.finish()
    if resumed != state:
        if trainer.position.best_step:
            trainer.restore(work.path / "best")
        trainer.save(state)
    touched = trainer.touched()
    if here.is_first:
        for kept in (steps, work.path / "best"):
            shutil.rmtree(kept, ignore_errors=True)
        work.commit(
            artifacts.Checkpoint,
            request,
            num_rows=trainer.objective.reader.num_rows,
            day=day,
            num_steps=trainer.position.step,
            loss=trainer.position.last_loss,
            examples_per_second=_speed(curve),
            num_ranks=here.num_ranks,
            warm_started_from=base.digest if base else None,
            touched=touched,
        )
    here.barrier()
    return artifacts.Checkpoint.load(request.output)


def _train(trainer: Trainer, work: Path, sink: Sink) -> list[dict[str, float]]:
    """Run the epochs that are left; return the points of the loss curve."""
    config = trainer.config
    meter = _Meter(trainer, work / "curve.parquet", sink)
    for epoch in range(trainer.position.epoch, trainer.num_epochs):
        batches = prefetch(trainer.objective.feed.batches(trainer.epoch(), epoch=epoch, step=trainer.position.step))
        for batch, consumed in meter.waiting(batches):
            loss = trainer.step(batch, trainer.position.step)
            meter.count(loss, batch, consumed)
            if trainer.position.step % config.log_every_steps == 0:
                meter.report()
            if config.evaluate_every_steps and trainer.position.step % config.evaluate_every_steps == 0:
                meter.report()
                meter.tell(trainer.judge(work / "best"))
                if trainer.is_stale:
                    break
            if trainer.position.step % config.checkpoint_every_steps == 0:
                meter.report()
                meter.settle()
                trainer.save(work / "steps" / f"step-{trainer.position.step}")
                if trainer.here.is_first:
                    files.keep_newest(work / "steps", config.keep_checkpoints)
        meter.end_epoch()
        if trainer.is_stale:
            break
    meter.report()
    if trainer.here.is_first:
        _write_curve(work / "curve.parquet", meter.curve)
    return meter.curve


class _Meter:
    """Counts examples and losses without waiting for the device; keeps `trainer.position` up to date."""

    def __init__(self, trainer: Trainer, curve_path: Path, sink: Sink) -> None:
        self._trainer, self._sink = trainer, sink
        self._num_rows = trainer.objective.reader.num_rows
        self._total = self._num_rows * trainer.num_epochs
        self._loss_sum = torch.zeros(1, dtype=torch.float64, device=trainer.here.device)
        self._consumed: list[Interval] = []
        self._curve_path = curve_path
        self._since, self._waited = time.monotonic(), 0.0
        self._done = self._reported = trainer.position.epoch * self._num_rows + sum(
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

    def count(self, loss: torch.Tensor, batch: Any, consumed: list[Interval]) -> None:
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

    def tell(self, validation: dict[str, float]) -> None:
        """Tell what was measured on the validation rows; the time that took is not the training's."""
        self._since = time.monotonic()
        if self._trainer.here.is_first:
            step, metrics = self._trainer.position.step, {f"valid_{name}": value for name, value in validation.items()}
            self._sink(
                Event(stage=_STAGE, done=self._done, total=self._total, unit="examples", step=step, metrics=metrics)
            )

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
        """Check that no row was lost or read twice, and start the next epoch's count, if there is one."""
        self.settle()
        position, num_rows = self._trainer.position, self._num_rows
        num_read = sum(b - a for a, b in position.consumed)
        stopped = self._trainer.is_stale
        assert stopped or position.consumed == ((0, num_rows),), f"an epoch of {num_rows} rows: {position.consumed}"
        self._trainer.position = position.model_copy(
            update={
                "epoch": self._trainer.num_epochs if stopped else position.epoch + 1,
                "consumed": (),
                "loss_sum": 0.0,
                "last_loss": position.loss_sum / num_read,
            }
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
