"""What both products' gates have in common: parts of the measured rows, and limits on a metric."""

import re
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, Field

from recsys_core.artifacts import Frozen
from recsys_core.gate.parts import COLD_ITEMS, NEW_USERS, Part, Values
from recsys_core.gate.replay import Config as Replay

S = TypeVar("S", bound="Slice")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.=-]*")

MAXIMUM_DROP = (
    "how much worse than the champion on the same rows, as a share of its metric: a model that is worse by more than "
    "this, and not by chance, is turned down"
)
SLICES = (
    "parts of the rows with limits of their own, by name: `new_users`, `cold_items`, or any other name with a `column` "
    "and its `value`; each with `minimum`, `maximum_drop`"
)


class Slice(Part):
    """A part of the rows with limits of its own on the gate's metric; without a limit it is only measured."""

    minimum: float | None = Field(default=None, description="the metric's floor on these rows")
    maximum_drop: float | None = Field(default=None, ge=0, le=1, description="as gate.maximum_drop, on these rows")


def named(slices: dict[str, S]) -> dict[str, S]:
    """Check the names of parts.

    Raises:
        ValueError: one that cannot be a metric's name, or that does not say which rows are meant.
    """
    for name, part in slices.items():
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r}: a slice is named by letters, digits and _ . = -; rename it")
        if (part.column is None) != (name in (NEW_USERS, COLD_ITEMS)):
            raise ValueError(
                f"{name}: without a column there are the slices {NEW_USERS} and {COLD_ITEMS}, and these have none; "
                "give it a column and a value, or another name"
            )
    return slices


class Common(Frozen):
    """Keys of both gates."""

    confidence: float = Field(
        default=0.95, gt=0.5, lt=1, description="of the interval of the difference to the champion, by paired bootstrap"
    )
    unclear: Literal["abstain", "reject"] = Field(
        default="abstain",
        description="what becomes of a comparison that chance may have made: abstain, the other conditions decide; or "
        "reject",
    )
    slices: Annotated[dict[str, Slice], AfterValidator(named)] = Field(default={}, description=SLICES)
    replay: Replay | None = Field(
        default=None, description="logged requests, answered by the new model and by the live one; null: none are"
    )

    @property
    def parts(self) -> dict[str, Part]:
        """The parts without their limits: what is measured."""
        return {name: Part(column=part.column, value=part.value) for name, part in self.slices.items()}

    @property
    def sliced_by(self) -> dict[str, Values]:
        """The columns by which parts are distinguished, by the part's name."""
        found = {name: Values.of(part) for name, part in self.slices.items()}
        return {name: values for name, values in found.items() if values is not None}
