"""Labelled rows by day, which a model is retrained on daily.

    SOURCE/ds=YYYY-MM-DD/   a local folder with a partition for each day, in files of Parquet, ORC or CSV; or
    s3://…/dt={day}/        a path in which {day} stands for each day, as YYYY-MM-DD or YYYYMMDD;
    odps://PROJECT/tables/TABLE/ds={day}

Days in Parquet files of a local folder are read in place. All others are copied to Parquet once each, and again when
they have changed; only days that a run needs are.
"""

import datetime
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, field_validator

from recsys_core import readers, uri
from recsys_core.datasets import _by_day, base
from recsys_core.datasets._by_day import fingerprint

__all__ = ["Config", "days", "fingerprint"]


class Config(base.Config):
    """`source` is a local folder of partitions `ds=YYYY-MM-DD`, or a path with `{day}`."""

    in_place: ClassVar[bool] = True

    kind: Literal["labelled_days"] = "labelled_days"
    source: str
    time_column: str | None = Field(
        default=None,
        description="a time of each row, which must lie in its day in UTC; a holdout of kind tail needs it",
    )
    csv: readers.CsvOptions = Field(default=readers.CsvOptions(), description="how files of CSV are written")

    _is_by_day = field_validator("source")(_by_day.require)

    @property
    def root(self) -> Path | None:
        """The local folder whose partitions may be read in place; None: the source is a path with `{day}`."""
        return None if _by_day.DAY in self.source else uri.local(self.source)


def days(config: Config, first: datetime.date, last: datetime.date) -> dict[datetime.date, readers.Part]:
    """Return the rows of each day from `first` to `last` that there are; see `_by_day.days`."""
    return _by_day.days(config.source, first, last)
