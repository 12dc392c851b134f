"""What ingest and the data check leave behind."""

import datetime
from pathlib import Path
from typing import ClassVar

from recsys_core import integrity
from recsys_core.artifacts.core import Artifact, FileRecord, Frozen


class DayCount(Frozen):
    """Rows of one day's partition in each table of the log."""

    day: datetime.date
    num_interactions: int
    num_users: int
    num_items: int


class Dataset(Artifact):
    """A checked log in the daily layout: `root/{interactions,users,items}/ds=YYYY-MM-DD/*.parquet`."""

    stage: ClassVar[str] = "ingest"

    root: Path
    day: datetime.date
    days: tuple[DayCount, ...]
    columns: dict[str, dict[str, str]]

    def log_digests(self) -> dict[Path, str]:
        """Return the digest that each file of the log had when it was checked, by its path."""
        return {self.root / file["path"]: file["digest"] for file in integrity.read_json(self.path / "files.json")}


class LabelledDay(Frozen):
    """One day's labelled rows, and the folder of Parquet files that they are in: the user's, or that of a copy."""

    day: datetime.date
    num_rows: int
    num_positives: int
    folder: Path


class LabelledLog(Artifact):
    """Labelled rows by day, checked: those that a run learns from and is measured on, and those it compares them with.

    `num_rows` counts the rows of all `days`, which are in order; a day without a partition is not among them. `columns`
    are those of the last day. `source` is what the log is called in messages.
    """

    stage: ClassVar[str] = "ingest"

    source: str
    day: datetime.date
    days: tuple[LabelledDay, ...]
    columns: dict[str, str]

    def files_of(self, day: datetime.date) -> tuple[FileRecord, ...]:
        """Return the files of a day as they were when they were checked; paths are below the day's folder."""
        return tuple(map(FileRecord.model_validate, integrity.read_json(self.path / "files.json").get(str(day), ())))

    def log_digests(self) -> dict[Path, str]:
        """Return the digest that each file of the log had when it was checked, by its path."""
        files = integrity.read_json(self.path / "files.json")
        return {day.folder / file["path"]: file["digest"] for day in self.days for file in files[str(day.day)]}


class ExampleLog(LabelledLog):
    """Ready-made examples by day, each of which is a positive, and tables of their own beside them, checked.

    The columns of the days' rows are called as in the source, those of the tables in the artifact as features read
    them; `names` has the latter by the former where they differ. `evaluation_source` is for messages.
    """

    names: dict[str, str]
    evaluation_source: str
    num_items: int
    num_evaluation_rows: int

    @property
    def items(self) -> Path:
        """Parquet folder: item_id, the items' columns, and sampling_weight if it is given."""
        return self.path / "items"

    @property
    def evaluation(self) -> Path:
        """Parquet folder, rows as in their source: user_id, columns, lists gt_items and, if given, seen_items."""
        return self.path / "evaluation"


class Measurement(Frozen):
    """One check of one day's table or column: the figure, its limit (null: none), and whether it held; in words too."""

    day: datetime.date
    table: str
    column: str | None
    check: str
    figure: float | None
    limit: float | None
    held: bool
    stops: bool
    message: str


class DataCheck(Artifact):
    """The log held against the data contract: `measurements.parquet`, one row per check, and `report.md`.

    `num_rows` counts the measurements; those of `breaches` did not hold. The days `first_day`..`day` were checked.
    """

    stage: ClassVar[str] = "check"

    day: datetime.date
    first_day: datetime.date
    breaches: tuple[Measurement, ...]

    @property
    def measurements(self) -> Path:
        """Parquet file of all `Measurement`s."""
        return self.path / "measurements.parquet"

    @property
    def report(self) -> Path:
        """The outcome as Markdown, for people."""
        return self.path / "report.md"
