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


class Split(Frozen):
    """Of all of a log up to the run's day, some rows are for validation and some for testing, and one part is measured.

    When it is `validation`, the test rows are neither learned from nor known.
    """

    part: Literal["test", "validation"] = Field(default="test", description="which of the two is measured on")
    learns_validation: bool = Field(
        default=False,
        description="for part: test: validation rows are learned from too, and not only known as what was seen before",
    )

    @model_validator(mode="after")
    def _measures_on_others(self) -> Self:
        if self.learns_validation and self.part == "validation":
            raise ValueError("learns_validation: part: validation is measured on these rows; remove one of the two")
        return self


class LeaveOneOut(Split):
    """Of each user with three interactions or more, the last one is the test's, and the one before it validation's."""

    kind: Literal["leave_one_out"] = "leave_one_out"


class Temporal(Split):
    """The newest interactions of all users are the test's, and those just before them validation's."""

    kind: Literal["temporal"] = "temporal"
    share: float = Field(gt=0, lt=1, description="of all interactions, the newest ones, that are for testing")
    validation_share: float = Field(default=0.0, ge=0, lt=1, description="likewise of those just before them")

    @model_validator(mode="after")
    def _leaves_some(self) -> Self:
        if self.share + self.validation_share >= 1:
            raise ValueError("share and validation_share: they leave nothing to learn from; lower one of them")
        if self.part == "validation" and not self.validation_share:
            raise ValueError("validation_share: 0, and part: validation is measured on these rows; raise it")
        return self


DayHoldout = Annotated[NextDay | Tail | Rows, Field(discriminator="kind")]
"""What a day at a time is held out by."""

Holdout = Annotated[NextDay | Tail | Rows | LeaveOneOut | Temporal, Field(discriminator="kind")]
"""That, or a split of a whole log."""


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
