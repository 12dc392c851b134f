"""What is trained on, and the checkpoint that training leaves."""

import datetime
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field

from recsys_core.artifacts.core import Artifact, Frozen
from recsys_core.artifacts.holdout import Learned
from recsys_core.artifacts.ranking import Predicts
from recsys_core.integrity import digest_of, read_record

# A query's column `history__price` holds what column `price` of the item table is of each item it has seen.
HISTORY = "history__"
# Of an example that is a whole sequence: its items that are to be found, and what of its history comes before each.
TARGETS, KNOWN = "targets", "known"
STATE = "state"
# What a training's weights mean nothing without, kept beside them.
FEATURES, MODEL, SAMPLE = "features", "model.json", "sample"


class TrainingData(Artifact):
    """What one day's training and evaluation read: `examples/`, `items/`, `ground_truth/`, `features/`.

    `num_rows` counts the examples. Where these are whole sequences, they have `num_targets` targets together, and one
    of them `most_targets`. `first_day`..`day` are the days the examples come from; `ground_truth_day` is
    the day whose interactions are to be predicted. `learned` is what a state has learned from once it has been trained
    on them, null in records of before. Of a split of a whole log, `num_tied` counts the items of the ground truth that
    would be others if the log's files had another order among interactions of one second.
    """

    stage: ClassVar[str] = "preprocess"

    day: datetime.date
    first_day: datetime.date
    ground_truth_day: datetime.date
    num_items: int
    num_queries: int
    num_ground_truth: int
    engine_digest: str
    learned: Learned | None = None
    num_tied: int | None = None
    num_targets: int | None = None
    most_targets: int | None = None

    @property
    def examples(self) -> Path:
        """Parquet folder: user_id, item_id, timestamp, the query's columns, and history__item_id and its like.

        Of whole sequences: `targets`, a list of items, in place of item_id, and `known`, how many entries of the row's
        history come before each.
        """
        return self.path / "examples"

    @property
    def items(self) -> Path:
        """Parquet folder: item_id, the item's columns, sampling_weight, num_interactions."""
        return self.path / "items"

    @property
    def ground_truth(self) -> Path:
        """Parquet folder: user_id, the query's columns, history__item_id, …, gt_items, seen_items."""
        return self.path / "ground_truth"

    @property
    def engine(self) -> Path:
        """The fitted feature engine."""
        return self.path / "features"


class LabelledSplit(Frozen):
    """One table of labelled rows: what it is for (`train`, `valid` or `test`), and how many rows are positive.

    `folders` are those that its rows are in, in order, of which relative ones lie below the artifact's own; none: the
    rows are in the folder of this name below the data's root.
    """

    name: str
    num_rows: int
    num_positives: int
    folders: tuple[Path, ...] = ()


class LabelledData(Artifact):
    """Labelled tables `root/{train,valid,test}/`, checked; `features/` is the engine fitted on `train`.

    `num_rows` counts the training rows. The rows themselves stay where they are. `csv` is how files of CSV among them
    are read, by a section `csv` that names the type of every column. Of daily rows `day` is the run's, and `learned` is
    what a state has learned from once it has been trained on them.
    """

    stage: ClassVar[str] = "prepare"

    root: Path
    splits: tuple[LabelledSplit, ...]
    columns: dict[str, str]
    csv: dict[str, Any] | None = None
    engine_digest: str
    day: datetime.date | None = None
    learned: Learned | None = None

    def has(self, split: str) -> bool:
        """Whether there are rows for `split`."""
        return any(one.name == split for one in self.splits)

    def folders(self, split: str) -> tuple[Path, ...]:
        """Return the folders that the rows of a split are in, in order."""
        (found,) = (one for one in self.splits if one.name == split)
        return tuple(self.path / folder for folder in found.folders) or (self.root / split,)

    @property
    def engine(self) -> Path:
        """The fitted feature engine."""
        return self.path / "features"


class TrainedModel(Frozen):
    """What the weights of a training are of, `model.json` beside them: the section `model` of whose config.

    `predicts` says what the outputs of a ranker stand for; none: all are logits of probabilities.
    """

    product: Literal["retrieval", "ranking"]
    model: dict[str, Any]
    predicts: tuple[Predicts, ...] = ()


class KeptState(Frozen):
    """A state of a training that validated well; `folder` is relative to the artifact's directory."""

    step: int
    metric: str
    value: float
    folder: str


class Checkpoint(Artifact):
    """A finished training: distributed checkpoint in `state/`, the loss curve in `curve.parquet`.

    `plan.json` says where its tables lay, and `plan.txt` says it to people. `touched` is the share of each table's rows
    that were ever updated, where the optimizer's state shows it. `kept` are the states that validated best, the
    best one, which is in `state/`, first. `folder` is that of the state that is meant. `learned` says which rows it has
    learned from, null in records of before and where rows are of no days. Where `architecture` is that of another
    model, their dense weights and optimizers are alike; null in records of before, and of models of other packages.
    """

    stage: ClassVar[str] = "train"

    day: datetime.date
    num_steps: int
    loss: float
    examples_per_second: float
    num_ranks: int
    warm_started_from: str | None
    learned: Learned | None = None
    touched: dict[str, float] = Field(default={})
    kept: tuple[KeptState, ...] = ()
    architecture: str | None = None
    folder: str = STATE

    @property
    def state(self) -> Path:
        """Folder of torch's distributed checkpoint: model and optimizers."""
        return self.path / self.folder

    def at(self, step: int | None) -> Self:
        """Return the same training with the kept state of `step`; None is the best one.

        Raises:
            ValueError: that one was not kept; those that were are listed.
        """
        if step is None:
            return self
        folders = {one.step: one.folder for one in self.kept}
        if step not in folders:
            steps = ", ".join(f"{one.step} ({one.metric} {one.value:.6g})" for one in self.kept) or "none"
            raise ValueError(
                f"use_step: {self.path} has no state of step {step}, but of {steps}; name one of these, or keep more "
                "with train.keep_best"
            )
        folder = folders[step]
        # What is made of another state is another artifact.
        digest = self.digest if folder == self.folder else digest_of([self.digest, folder])
        return self.model_copy(update={"folder": folder, "digest": digest})

    @property
    def engine(self) -> Path:
        """The fitted features that it was trained with, a copy; trainings of before have none."""
        return self.path / FEATURES

    def sample(self, side: str) -> Path:
        """Return the file of the first rows that it was trained on, their columns of one side."""
        return self.path / SAMPLE / f"{side}.parquet"

    def trained_model(self) -> TrainedModel | None:
        """Return what its weights are of; None of a training of before that was recorded."""
        return trained_model(self.path)

    @property
    def carried(self) -> Path:
        """Text: what it took over of another training; there only if that was not simply all (JSON beside it)."""
        return self.path / "carried.txt"

    @property
    def plan(self) -> Path:
        """Text: which rank held which part of which table, and what that took."""
        return self.path / "plan.txt"


def trained_model(training: Path) -> TrainedModel | None:
    """Return what the weights in a training's folder are of, finished or not; None if it does not say."""
    record = training / MODEL
    return read_record(TrainedModel, record) if record.is_file() else None
