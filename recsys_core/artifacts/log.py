"""What ingest and the data check leave behind."""

import datetime
from pathlib import Path
from typing import ClassVar

from recsys_core import integrity
from recsys_core.artifacts.core import Artifact, Frozen


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
