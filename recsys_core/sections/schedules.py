"""Learning rate schedules: what share of its configured learning rate an optimizer uses at a step.

Each is a function of the step and the epoch alone, so a resumed training goes on exactly where it was. Time starts
after the warm-up where it counts steps; `by: epoch` counts the epochs that are over.
"""

import bisect
import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from recsys_core.artifacts import Frozen


class Schedule(Frozen):
    """What all schedules share: linear warm-up, and the unit that they count in."""

    by: Literal["step", "epoch"] = Field(default="step", description="what the schedule counts; warm-up counts steps")
    warmup_steps: int = Field(default=0, ge=0, description="steps of linear increase before the schedule starts")
    warmup_start: float = Field(default=0.0, ge=0, le=1, description="share of the learning rate before the first one")

    def share(self, step: int, epoch: int) -> float:
        """Return the share of the learning rate in the step after `step` steps, `epoch` epochs of them complete."""
        if step < self.warmup_steps:
            return self.warmup_start + (1 - self.warmup_start) * (step + 1) / self.warmup_steps
        return self.after_warmup(epoch if self.by == "epoch" else step - self.warmup_steps)

    def after_warmup(self, time: int) -> float:
        """Return the share after `time` steps or epochs; constant here."""
        del time
        return 1.0


class Constant(Schedule):
    """The learning rate as it is."""

    kind: Literal["constant"] = "constant"


class Exponential(Schedule):
    """Multiplied by `factor` every `every` steps or epochs: at once (`staircase`), or little by little."""

    kind: Literal["exponential"]
    factor: float = Field(gt=0, lt=1)
    every: int = Field(ge=1)
    staircase: bool = False
    floor: float = Field(default=0.0, ge=0, le=1, description="smallest share")

    def after_warmup(self, time: int) -> float:
        """See `Schedule.after_warmup`."""
        periods = time // self.every if self.staircase else time / self.every
        return max(self.floor, self.factor**periods)


class Manual(Schedule):
    """`shares[i]` of the learning rate from `boundaries[i]` on, all of it before."""

    kind: Literal["manual"]
    boundaries: tuple[int, ...] = Field(min_length=1)
    shares: tuple[Annotated[float, Field(ge=0)], ...]

    def after_warmup(self, time: int) -> float:
        """See `Schedule.after_warmup`."""
        return (1.0, *self.shares)[bisect.bisect_right(self.boundaries, time)]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if list(self.boundaries) != sorted(set(self.boundaries)) or self.boundaries[0] < 1:
            raise ValueError(f"boundaries: {list(self.boundaries)} do not rise from 1")
        if len(self.shares) != len(self.boundaries):
            raise ValueError(f"shares: {len(self.shares)} of them for {len(self.boundaries)} boundaries; give as many")
        return self


class Cosine(Schedule):
    """Half a cosine from the whole learning rate to `floor`, which is reached after `total` steps or epochs."""

    kind: Literal["cosine"]
    total: int = Field(ge=1)
    floor: float = Field(default=0.0, ge=0, le=1, description="share at the end")

    def after_warmup(self, time: int) -> float:
        """See `Schedule.after_warmup`."""
        return _cosine(min(time / self.total, 1.0), self.floor)


class CosineRestarts(Schedule):
    """Half a cosine again and again: `first` steps or epochs, and each next one `growth` times as long.

    Loshchilov and Hutter 2017, SGDR.
    """

    kind: Literal["cosine_restarts"]
    first: int = Field(ge=1)
    growth: int = Field(default=1, ge=1)
    floor: float = Field(default=0.0, ge=0, le=1, description="share before each restart")

    def after_warmup(self, time: int) -> float:
        """See `Schedule.after_warmup`."""
        length = self.first
        if self.growth == 1:
            time %= length
        while time >= length:
            time -= length
            length *= self.growth
        return _cosine(time / length, self.floor)


Config = Annotated[Constant | Exponential | Manual | Cosine | CosineRestarts, Field(discriminator="kind")]


def _cosine(progress: float, floor: float) -> float:
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))
