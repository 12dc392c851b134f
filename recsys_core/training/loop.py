"""A training from its first step to its artifact; every rank runs it, and the first one writes the artifact."""

import contextlib
import datetime
import shutil
import sys
import threading
from collections.abc import Callable, Mapping

import pyarrow.parquet as pq
import torch

from recsys_core import artifacts, checkpoint
from recsys_core.artifacts import ComponentConfig, LabelledData, Pending, TrainingData
from recsys_core.checkpoint import TrainProgress, carrying
from recsys_core.loading.row_ranges import RowRange
from recsys_core.progress import Event, Sink, Stopped
from recsys_core.sharding import sizes
from recsys_core.training import alone, best_states, profiling, stop_signal
from recsys_core.training.monitor import Curve, Monitor, speed
from recsys_core.training.starting import Base
from recsys_core.training.trainer import Trainer

_BEST = "best"
_WITHOUT_NARROW_NUMBERS = ("DEFAULT", "NO AVX", "AVX2")  # as torch calls what a CPU can


def fit(
    trainer: Trainer,
    request: artifacts.Request,
    base: Base | None,
    sink: Sink,
    *,
    day: datetime.date,
    files: Mapping[str, str],
    data: TrainingData | LabelledData,
    model: ComponentConfig,
    architecture: str | None,
) -> artifacts.Checkpoint:
    """Train to the end, from the last checkpoint of a killed or stopped try, from `base`, or from start weights.

    `files` are the fingerprints of the files that tables start from, `data` is what the objective reads,
    `model` the section of its model, and `architecture` that of the model (see `models.architecture`).

    Raises:
        Stopped: the process or another rank got SIGTERM or SIGINT; a checkpoint was written first.
    """
    world, work = trainer.world, Pending(request.output)
    if world.is_first:
        work.path.mkdir(parents=True, exist_ok=True)
        _keep_origin(trainer, work, model, data)
        _emit_plan(trainer, work, sink)
    world.barrier()
    steps, state = work.path / "steps", work.path / artifacts.STATE
    if resumed := state if state.exists() else checkpoint.latest(steps):
        with checkpoint.resuming(resumed):
            trainer.restore(resumed)
            trainer.position = checkpoint.position(resumed)
        if resumed != state:
            trainer.position = best_states.still_there(work.path / _BEST, trainer.position, world)
        trainer.position.refuse_other_source(trainer.objective.reader.fingerprint)
        _emit_restart(trainer, sink)
    else:
        _emit_start(trainer, trainer.begin(base, files, sink), work, sink)
    with contextlib.ExitStack() as inside:
        inside.enter_context(sizes.naming_memory(trainer.plan))
        stop = inside.enter_context(stop_signal.signals())
        step, beside = trainer.position.step, request.output
        if trainer.config.tensorboard and world.is_first:
            events = beside.with_name(f"{beside.name}.tensorboard")
            sink = inside.enter_context(profiling.tensorboard(events, sink, step=step))
        traces = beside.with_name(f"{beside.name}.profile")
        tick = inside.enter_context(profiling.profiled(trainer.config.profile, traces, world, step=step))
        curve = _train(trainer, work, sink, stop, tick)
    trainer.saver.wait()
    trainer.optimizer.finish()
    if resumed != state:
        if trainer.position.kept:
            trainer.restore(best_states.place(work.path / _BEST, trainer.position.kept[0].step))
        trainer.save(state)
        trainer.saver.wait()
    touched = trainer.touched()
    if world.is_first:
        shutil.rmtree(steps, ignore_errors=True)
        work.commit(
            artifacts.Checkpoint,
            request,
            num_rows=trainer.objective.reader.num_rows,
            day=day,
            num_steps=trainer.position.step,
            loss=base.checkpoint.loss if base is not None and not trainer.num_epochs else trainer.position.last_loss,
            examples_per_second=speed(curve),
            num_ranks=world.num_ranks,
            learned=data.learned,
            warm_started_from=base.checkpoint.digest if base else None,
            touched=touched,
            architecture=architecture,
            kept=best_states.finish(work.path / _BEST, trainer.position, trainer.config.best_metric),
        )
    world.barrier()
    return artifacts.Checkpoint.load(request.output)


def _keep_origin(trainer: Trainer, work: Pending, model: ComponentConfig, data: TrainingData | LabelledData) -> None:
    """Keep what those need to know that continue this training, and those that find its weights alone."""
    trainer.start.lineage(data, work.destination).save(work.path)
    alone.keep(work.path, model, data, trainer.objective)


def _emit_restart(trainer: Trainer, sink: Sink) -> None:
    """Emit that a process was lost, and how much of the work with it."""
    if trainer.world.is_first and (number := trainer.world.num_restarts):
        message = f"a process was lost; restart {number} goes on from step {trainer.position.step:,}"
        sink(Event(stage="train", message=message))


def _emit_start(trainer: Trainer, report: carrying.Report | None, work: Pending, sink: Sink) -> None:
    """Keep what was taken over of another training, and emit it."""
    if report is not None and trainer.world.is_first:
        report.save(work.path)
        sink(Event(stage="train", message=report.text))


def _emit_plan(trainer: Trainer, work: Pending, sink: Sink) -> None:
    """Keep the plan of the tables, and emit it with how well they serve their ids."""
    trainer.plan.save(work.path)
    message = f"plan ({trainer.plan_message})\n{trainer.plan.text()}"
    sys.stderr.write(f"{message}\n")
    sink(Event(stage="train", metrics=trainer.objective.engine.figures, message=message))
    precision, instructions = trainer.config.precision, torch.backends.cpu.get_cpu_capability()
    if trainer.world.device.type == "cpu" and precision != "float32" and instructions in _WITHOUT_NARROW_NUMBERS:
        slow = f"this CPU ({instructions}) computes {precision} in software, many times slower than float32"
        sink(Event(stage="train", message=f"train.precision: {slow}; leave it out here"))


def _train(trainer: Trainer, work: Pending, sink: Sink, stop: threading.Event, tick: Callable[[], None]) -> Curve:
    """Run the epochs that are left, calling `tick` after each step; return the points of the loss curve."""
    config, steps = trainer.config, work.path / "steps"
    meter = _meter(trainer, work, sink)
    agreement = stop_signal.Agreement(trainer.world, stop, trainer.position.step, every_steps=config.log_every_steps)
    for epoch in range(trainer.position.epoch, trainer.num_epochs):
        feed = trainer.objective.feed.batches(
            trainer.epoch(), epoch=epoch, step=trainer.position.step, pins=trainer.world.device.type == "cuda"
        )
        with (
            contextlib.closing(feed) as batches,
            contextlib.closing(trainer.arriving(meter.waiting(batches))) as arriving,
        ):
            for batch, consumed in arriving:
                if trainer.is_over or trainer.is_remainder(batch):
                    break
                losses = trainer.step(batch, trainer.position.step)
                meter.count(trainer.position.epoch, losses, batch.global_rows, consumed)
                trainer.count(losses, consumed)
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
                    trainer.settle()
                    meter.write_curve()
                    trainer.save(steps / f"step-{step}", keep=config.keep_checkpoints)
                if stops:
                    trainer.saver.wait()
                    raise Stopped(meter.stopped(trainer.position))
        trainer.settle()
        meter.write_curve()
        if trainer.evaluates_epoch:
            trainer.judge(meter, work.path / _BEST)
        trainer.position = _end_epoch(trainer, trainer.position)
        if trainer.is_over:
            break
    trainer.report(meter)
    meter.write_curve()
    return meter.curve


def _meter(trainer: Trainer, work: Pending, sink: Sink) -> Monitor:
    bad_rows = work.destination.with_name(f"{work.destination.name}.bad_rows.parquet")

    def keep_rows(epoch: int, places: list[RowRange]) -> str:
        pq.write_table(trainer.rows(epoch, places), bad_rows)
        return str(bad_rows)

    num_rows, num_steps = trainer.objective.reader.num_rows, trainer.config.num_steps
    total = num_rows * trainer.num_epochs
    if trainer.config.drop_remainder:
        total = num_rows // trainer.full_rows * trainer.full_rows * trainer.num_epochs
    if num_steps is not None:
        total = num_steps * min(num_rows, trainer.config.batch_size * trainer.world.num_ranks)
    return Monitor(
        trainer.world,
        trainer.position,
        num_rows=num_rows,
        total=total,
        curve_path=work.path / "curve.parquet",
        sink=sink,
        keep_rows=keep_rows,
    )


def _end_epoch(trainer: Trainer, position: TrainProgress) -> TrainProgress:
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
