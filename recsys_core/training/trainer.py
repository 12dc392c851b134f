"""The state of one training on one rank, and what is done with it: steps, checkpoints, validation."""

import functools
import math
import operator
from collections import OrderedDict
from collections.abc import Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torchrec.distributed.model_parallel import DistributedModelParallel

from recsys_core import artifacts, checkpoint, optim, sharding
from recsys_core.artifacts import Pending
from recsys_core.checkpoint import TrainProgress, carrying, owners
from recsys_core.distributed import World
from recsys_core.loading import reading
from recsys_core.loading.batch import moved
from recsys_core.loading.epoch_order import EpochOrder
from recsys_core.loading.rank_batches import CostLimit, RankBatches
from recsys_core.loading.row_ranges import RowRange
from recsys_core.progress import Sink
from recsys_core.readers import Selected, Selection
from recsys_core.sharding.sizes import naming_memory
from recsys_core.training import best_states, compiling
from recsys_core.training.account import Account
from recsys_core.training.config import Config
from recsys_core.training.monitor import Monitor
from recsys_core.training.objective import Objective
from recsys_core.training.starting import Base, Start


def earlier_plans(request: artifacts.Request, base: artifacts.Checkpoint | None) -> list[Path]:
    """Return the folders whose plan of tables may be taken again: of a killed try, and of what is continued."""
    return [Pending(request.output).path, *([base.path] if base else [])]


class Trainer:
    """The state of one training on one rank: model, optimizers, and where it stands."""

    def __init__(
        self,
        objective: Objective[Any],
        config: Config,
        world: World,
        *,
        seed: int,
        warm: bool = False,
        earlier_plans: Sequence[Path] = (),
    ) -> None:
        """Shard the objective's model and make the optimizers.

        `warm`: it is going to continue another training. `earlier_plans` are folders whose plan may be taken again.
        """
        self.objective, self.config, self.world, self.seed = objective, config, world, seed
        self.num_epochs = config.num_warm_epochs if warm else config.num_epochs
        if config.num_steps is not None:
            # A step takes a row at least.
            self.num_epochs = config.num_steps
        if not objective.reader.num_rows:
            assert warm, "only what is continued may be without new rows"
            self.num_epochs = 0
        specs = objective.engine.tables
        frozen = {table.name for table in specs if not table.trainable}
        optim.fuse(config.sparse_optimizer, objective.tables, world.device, frozen)
        self._owners = {table: torch.from_numpy(rows) for table, rows in objective.engine.owners().items()}
        growing = {table.name: table.max_rows for table in specs if table.max_rows is not None}
        self.plan, self.plan_message = sharding.plan(
            objective.model,
            config.sharding,
            world,
            batch_size=config.batch_size,
            max_rows=growing,
            earlier=earlier_plans,
        )
        tables = [table.name for table in specs]
        initializers = {table.name: table.initializer for table in specs if table.initializer is not None}
        with naming_memory(self.plan):
            self.model: DistributedModelParallel = sharding.shard(
                objective.model, tables, config.sharding, world, seed, planned=self.plan, initializers=initializers
            )
        if config.compile:
            compiling.compile_in_place(objective.dense, world.device)
        scaler = optim.Scaler(objective.dense, world) if config.precision == "float16" else None
        self.optimizer = optim.Optimizer(config.sparse_optimizer, config.dense_optimizer, self.model, scaler)
        self.start = Start(
            objective,
            world,
            self._owners,
            (config.sparse_optimizer, config.dense_optimizer),
            state=self.state,
            restored=self.restored,
        )
        self.position = TrainProgress()
        self._account = Account(world)
        self.saver = checkpoint.Saver(world, in_background=config.async_checkpoints)
        self._budget: CostLimit | None = None
        if config.cost_column is not None and config.max_cost is not None:
            self._budget = CostLimit(config.cost_column, config.max_cost)
        if config.selection != Selection() and self.num_epochs:
            whole = objective.reader
            counts = world.share(lambda: Selected(whole, config.selection).state())
            objective.reader = Selected(whole, config.selection, counts)
            if not objective.reader.num_rows:
                raise ValueError(f"train.selection keeps none of the {whole.num_rows} rows; widen it")
        num_rows = objective.reader.num_rows
        if config.drop_remainder and self.num_epochs and num_rows < self.full_rows:
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
            report = self.start.from_base(base, files, sink, **choice)
            if report is not None and not self.num_epochs:
                changes = "; ".join(report.changes)
                raise ValueError(
                    f"{changes}: there are no new rows to train what has changed with; run a later day, or take the "
                    "changes back"
                )
            return report
        self.start.from_files(files, sink)
        return None if config.fine_tune_from is None else self.start.from_other(config.fine_tune_from)

    def restored(self, state: dict[str, Any]) -> None:
        """Take back what `state` returned, or some sections of it, after a checkpoint has filled it in."""
        self.model.load_state_dict(OrderedDict(state["model"]))
        self.optimizer.restored(state)

    def arriving(self, batches: Iterable[tuple[Any, Any]]) -> Generator[tuple[Any, Any], None, None]:
        """Yield `batches`, on the device; while one trains, the next one's ids go to the ranks that have their rows.

        Every rank has as many batches. Close the generator to end them early.
        """
        before: tuple[Any, Any] | None = None
        try:
            for batch, place in batches:
                there = moved(batch, self.world.device)
                if self.world.num_ranks > 1:
                    self.objective.tables.send(there.sparse)
                if before is not None:
                    yield before
                before = there, place
            if before is not None:
                yield before
        finally:
            # Whichever batch ends the training early, the one behind it has been sent.
            self.objective.tables.forget()

    def step(self, batch: Any, number: int) -> dict[str, torch.Tensor]:
        """Make one update; return the rank's sums of its rows' losses, see `Objective.loss`.

        They are tensors, not synchronised with the host.
        """
        self.world.seed((self.seed * 1_000_003 + number) * 4_099 + self.world.rank)
        self.optimizer.begin(number, self.position.epoch)
        with self._precision():
            losses = self.objective.loss(self._forward, batch, self.world)
        # Ranks' gradients are averaged; this makes the average the gradient of the mean over the global batch.
        total = functools.reduce(operator.add, losses.values())
        self.optimizer.backward(total * self.world.num_ranks / batch.global_rows)
        self.optimizer.end()
        return {name: loss.detach() for name, loss in losses.items()}

    def count(self, losses: dict[str, torch.Tensor], consumed: list[RowRange]) -> None:
        """Take one step into the position, of what `step` returned and the ranges of the epoch's order that it read."""
        self._account.add(losses, consumed)
        self.position = self.position.model_copy(update={"step": self.position.step + 1})

    def settle(self) -> None:
        """Bring all ranks' counts together in the position; every rank calls this after the same steps."""
        self.position = self._account.settle(self.position)

    def _forward(self, *inputs: Any) -> Any:
        """Call the model; what comes out is float32, whatever it was computed in."""
        outputs = self.model(*inputs)
        return tuple(output.float() for output in outputs) if isinstance(outputs, tuple) else outputs.float()

    def _precision(self) -> torch.autocast:
        kind = torch.float16 if self.config.precision == "float16" else torch.bfloat16
        return torch.autocast(self.world.device.type, kind, enabled=self.config.precision != "float32")

    def order(self, epoch: int) -> EpochOrder:
        """Return the order in which an epoch reads the rows."""
        return EpochOrder(
            self.objective.reader.block_rows,
            seed=self.seed,
            epoch=epoch,
            shuffle_rows=self.config.shuffle_rows,
            rows_per_turn=self.config.batch_size,
        )

    def rows(self, epoch: int, places: list[RowRange]) -> pa.Table:
        """Read the rows at `places` of an epoch's order."""
        return pa.Table.from_batches(
            reading.read(self.objective.reader, self.order(epoch), places, self.objective.feed.columns)
        )

    def epoch(self) -> RankBatches:
        """Return this rank's share of what is left of the epoch."""
        config = self.config
        return RankBatches(
            self.objective.reader,
            self.order(self.position.epoch),
            self.objective.feed.columns,
            batch_size=config.batch_size,
            rank=self.world.rank,
            num_ranks=self.world.num_ranks,
            consumed=self.position.consumed,
            budget=self._budget,
            gather=self.world.gather,
        )

    def judge(self, meter: Monitor, directory: Path) -> None:
        """Measure the state and emit the figures; keep it in `directory` if it is among the best.

        Raises:
            ValueError: there is nothing to validate on, or it does not have `train.best_metric`.
        """
        self.report(meter)
        found = self.objective.validate(self.model, self.world)
        self.position = best_states.ranked(self.position, found, self.config.best_metric, count=self.config.keep_best)
        if any(one.step == self.position.step for one in self.position.kept):
            self.save(best_states.place(directory, self.position.step))
            if self.world.is_first:
                best_states.tidy(directory, self.position)
        meter.emit(self.position, found)

    def touched(self) -> dict[str, float]:
        """Return the share of each table's rows that an update has ever touched; every rank calls this."""
        counts: dict[str, int] = {}
        sizes: dict[str, int] = {}
        for part in self.world.gather(self.optimizer.touched_rows()):
            for table, (count, size) in part.items():
                counts[table], sizes[table] = counts.get(table, 0) + count, size
        return {table: counts[table] / sizes[table] for table in sorted(counts)}

    def report(self, meter: Monitor) -> None:
        """Emit the loss and the lengths of weights and gradients; every rank calls this after the same steps."""
        known = self.optimizer.learning_rates() | self.objective.figures(self.world)
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
        return self.config.batch_size * self.world.num_ranks

    @property
    def evaluates_epoch(self) -> bool:
        """Whether the state is to be measured at the end of this epoch, and has not been."""
        every, position = self.config.evaluate_every_epochs, self.position
        whole = position.consumed == ((0, self.objective.reader.num_rows),)
        is_due = every is not None and (position.epoch + 1) % every == 0
        return is_due and whole and position.validated_step != position.step

    def save(self, directory: Path, *, keep: int | None = None) -> None:
        """Write a checkpoint, in the background if the config says so; every rank calls this.

        With `keep`, only that many of the newest checkpoints beside it are kept.

        Raises:
            ValueError: a weight, or what an optimizer keeps of it, is no finite number.
        """
        state = self.state()
        self._refuse_nonfinite(state)
        position = self.position.model_copy(update={"source": self.objective.reader.fingerprint})
        self.saver.save(directory, state, position, keep=keep)

    def _refuse_nonfinite(self, state: dict[str, Any]) -> None:
        # The last update may have made what no loss has seen yet, and rows of a table wait long for their next look-up.
        extremes = checkpoint.extremes(state, self.world.device)
        bad = [
            name
            for name, value in zip(extremes, torch.stack([*extremes.values()]).tolist(), strict=True)
            if not math.isfinite(value)
        ]
        if found := sorted({name for names in self.world.gather(bad) for name in names}):
            raise ValueError(
                f"after step {self.position.step:,} these are not all finite numbers: {', '.join(found)}; no "
                "checkpoint is made of them, and the last one is kept. Lower the learning rates of train, or set "
                "train.dense_optimizer.max_gradient_norm or train.sparse_optimizer.max_gradient"
            )
