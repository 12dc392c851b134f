"""What a day's model is measured on (section `holdout`), and what a state has therefore learned from."""

import datetime
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from recsys_core.artifacts.core import Frozen


class NextDay(Frozen):
    """All rows of the day after the run's."""

    kind: Literal["next_day"] = "next_day"


class Tail(Frozen):
    """The rows of the run's day whose time lies in its newest `hours` hours."""

    kind: Literal["tail"] = "tail"
    hours: float = Field(gt=0, lt=24, description="the day's newest hours that are measured on, less than the day has")


class Rows(Frozen):
    """The rows whose value of column `by` falls below `share` by its hash: the same values on every day."""

    kind: Literal["rows"] = "rows"
    share: float = Field(gt=0, lt=1, description="of the values of `by` that are measured on, about this share")
    by: str = Field(min_length=1, description="column whose values are either measured on or learned from as a whole")


Holdout = Annotated[NextDay | Tail | Rows, Field(discriminator="kind")]


class Learned(Frozen):
    """The rows that a state has learned from: all of the days `first_day`..`last_day` but the withheld ones.

    Withheld are the rows that `withheld` selects on the days from `withheld_since` on; both null: none is. Before
    `first_day` it has learned from nothing that is on record.
    """

    first_day: datetime.date
    last_day: datetime.date
    withheld: Holdout | None = None
    withheld_since: datetime.date | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        since = self.withheld_since
        assert self.first_day <= self.last_day, f"days {self.first_day}..{self.last_day}"
        assert (self.withheld is None) == (since is None), "withheld and withheld_since go together"
        assert since is None or self.first_day <= since <= self.last_day, f"withheld since {since}, of no day of these"
        return self
