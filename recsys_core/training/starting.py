"""What a training starts with: another training's weights, rows that files hold, or what is drawn."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from recsys_core import artifacts
from recsys_core.artifacts import LabelledData, TrainingData
from recsys_core.checkpoint import carrying, fine_tune, lineage, owners
from recsys_core.checkpoint.lineage import Lineage
from recsys_core.distributed import World
from recsys_core.optim import DenseConfig, SparseConfig
from recsys_core.progress import Event, Sink
from recsys_core.sections.checkpoint import FineTune
from recsys_core.sharding import pretrained
from recsys_core.training.objective import Objective

_SECTIONS = ("model", "optimizer")


class Base(NamedTuple):
    """What training continues, and its features if they do not lie where that training had them."""

    checkpoint: artifacts.Checkpoint
    engine: Path | None = None


class Start:
    """Fills the first weights of one training on one rank; every rank makes one and calls it alike."""

    def __init__(
        self,
        objective: Objective[Any],
        world: World,
        owned: Mapping[str, torch.Tensor],
        optimizers: tuple[SparseConfig, DenseConfig],
        *,
        state: Callable[[], dict[str, Any]],
        restored: Callable[[dict[str, Any]], None],
    ) -> None:
        """`owned` are the owners of rows, see `checkpoint.owners`.

        `state` returns the tensors of a checkpoint, and `restored` takes back what has been filled in of them.
        """
        self._objective, self._world, self._owned = objective, world, owned
        self._kinds = optimizers[0].kind, optimizers[1].kind
        self._state, self._restored = state, restored

    def lineage(self, data: TrainingData | LabelledData, output: Path) -> Lineage:
        """Return what those that start from this training need to know; it reads `data`, and is going to lie there."""
        return Lineage(
            layout=self._objective.layout(),
            sparse_optimizer=self._kinds[0],
            dense_optimizer=self._kinds[1],
            engine=lineage.relative(data.engine, output),
            engine_digest=data.engine_digest,
        )

    def from_files(self, files: Mapping[str, str], sink: Sink, continuing: list[str] | None = None) -> None:
        """Fill the rows of tables that start from files; see `pretrained.fill`."""
        weights, engine = self._state()["model"], self._objective.engine
        messages = pretrained.fill(weights, engine, self._world, known=files, continuing=continuing)
        if messages and self._world.is_first:
            sink(Event(stage="train", message="; ".join(messages)))

    def from_base(
        self, base: Base, files: Mapping[str, str], sink: Sink, *, on_change: str, restore_optimizer: bool
    ) -> carrying.Report | None:
        """Continue `base`; return what was taken over, where that is not simply all.

        Raises:
            ValueError: nothing of it means the same here, or something differs and `on_change` is not `carry`.
        """
        source = self._source(base.checkpoint.state, base.engine)
        state = self._state()
        kinds = self._kinds if restore_optimizer else None
        changes = source.changes(state["model"], kinds) if source else []
        # What is inherited comes from no file; only rows of ids that are new may.
        tables = [table.name for table in self._objective.engine.tables]
        self.from_files(files, sink, tables if changes else [*self._owned])
        if source is None or not changes:
            self.inherit(base.checkpoint.state, *(_SECTIONS if restore_optimizer else _SECTIONS[:1]))
            return None
        if on_change != "carry":
            raise ValueError(f"train.on_change: {on_change}, and {'; '.join(changes)}; start the run again")
        parts = carrying.inherit(source, state, kinds)
        if all(part.is_new for part in parts):
            raise ValueError(f"{carrying.nothing(changes)}: train from random weights with train.on_change: cold")
        self._restored({name: state[name] for name in (_SECTIONS if restore_optimizer else _SECTIONS[:1])})
        return carrying.Report(changes=tuple(changes), parts=tuple(parts))

    def inherit(self, directory: Path, *sections: str) -> None:
        """Take `sections` from the checkpoint of an earlier day, whose dynamic ids may have had other rows."""
        state = {section: held for section, held in self._state().items() if section in sections}
        owners.inherit(directory, state, self._owned)
        self._restored(state)

    def from_other(self, config: FineTune) -> carrying.Report:
        """Take the weights that `config` chooses from another training's checkpoint."""
        state = self._state()
        source = self._source(config.path, config.features)
        parts = fine_tune.load(config, state["model"], source, self._objective.engine)
        self._restored({"model": state["model"]})
        return carrying.Report(changes=(), parts=tuple(parts))

    def _source(self, path: Path, features: Path | None) -> carrying.Source | None:
        before = lineage.engine(path, lineage.of(path), features)
        if before is None:
            return None
        return carrying.source(path, (before, self._objective.engine), self._objective.layout(), self._objective.layout)
