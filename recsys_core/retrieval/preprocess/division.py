"""Which interactions of a log are measured on, and which of the others are learned from."""

import datetime
from collections.abc import Iterable

import numpy as np
import pyarrow as pa

from recsys_core import holdout, splits
from recsys_core.artifacts import Dataset, Holdout, Learned, LeaveOneOut, NextDay, Split, Tail, Temporal
from recsys_core.datasets._rows import TIME
from recsys_core.datasets.base import DAY_SECONDS, day_after, day_number, days_before
from recsys_core.holdout import Part
from recsys_core.retrieval.preprocess.log import Divide, Log, Users
from recsys_core.splits import Division


def of(part: Part | None, users: Users) -> Divide:
    """Return what says what rows are for, by seconds, users and items [R] in the order of time.

    Those of the part are measured on (None: none is), and all others may be learned from, unless a split of the whole
    log says otherwise.
    """

    def divide(seconds: np.ndarray, codes: np.ndarray, items: np.ndarray) -> Division:
        if part is not None and isinstance(part.only, Split):
            return splits.divide(part.only, seconds, codes, items)
        roles = np.full(len(seconds), splits.LEARNED, dtype=np.int8)
        if part is not None:
            first, stop = np.searchsorted(seconds, [_begin(part.day), _begin(part.day) + DAY_SECONDS])
            roles[first:stop][kept(part, seconds[first:stop], codes[first:stop], users)] = splits.MEASURED
        return Division(roles, 0)

    return divide


def examples(log: Log, users: Users, parts: Iterable[Part]) -> np.ndarray:
    """Return the rows [E] of the log's past that are of the parts, in the order of time."""
    found = [np.zeros(0, dtype=np.int64)]
    for part in parts:
        rows = np.arange(log.first_row(part.day), log.first_row(day_after(part.day)))
        if isinstance(part.but, Split):
            rows = rows[log.learnable[rows]]
        elif not part.is_whole:
            rows = rows[kept(part, log.seconds[rows], log.users[rows], users)]
        found.append(rows)
    return np.sort(np.concatenate(found))


def plan(dataset: Dataset, kind: Holdout, day: datetime.date, base: Learned | None, window: int | None) -> holdout.Plan:
    """Return what a run of `day` learns from and is measured on.

    Raises:
        ValueError: there are no interactions to learn from or to be measured on, or see `holdout.plan`.
    """
    days = sorted(count.day for count in dataset.days if count.num_interactions)
    there = [at for at in days if at <= day]
    measured = holdout.last_day(day, kind)
    if measured not in days:
        measurable = [days_before(at, 1) for at in days if at > min(days)] if measured != day else days
        nearest = min(measurable, key=lambda at: abs(at - day), default=None)
        hint = (
            "the log has no day that follows another"
            if nearest is None
            else f"the nearest day that has it is {nearest}"
        )
        on = "the day after it" if measured != day else "it"
        raise ValueError(f"day {day}: no interactions on {on}, on which the run is to be measured; {hint}")
    first = holdout.first_day(day, base, window)
    if not any(at >= first for at in there):
        missing = f"up to {day}; take a later day"
        if base is not None:
            missing = (
                f"after {base.last_day}, which the release to continue has learned, up to {day}; retrain a later day"
            )
        elif window is not None:
            missing = f"in the {window} days up to {day}; widen preprocess.window_days"
        raise ValueError(f"there are no interactions to learn from {missing}")
    return holdout.plan(kind, day, there, base, window)


def require_rows(num_measured: int, num_learned: int, kind: Holdout, day: datetime.date) -> None:
    """Refuse a holdout that holds out nothing, or everything.

    Raises:
        ValueError: says which, and what to change.
    """
    if isinstance(kind, NextDay):
        return
    if isinstance(kind, LeaveOneOut):
        if not num_measured:
            raise ValueError(
                f"day {day}: no user has {splits.FEWEST} interactions, of which holdout.kind: leave_one_out could hold "
                "out the last; take a later day, or another holdout"
            )
        assert num_learned, "and one of them is learned from"
        return
    limit = "holdout.hours" if isinstance(kind, Tail) else "holdout.share"
    if not num_measured:
        raise ValueError(f"day {day}: no interaction is held out, on which the run is to be measured; raise {limit}")
    if not num_learned:
        raise ValueError(f"day {day}: all interactions are held out, so that none is left to learn from; lower {limit}")


def in_words(split: LeaveOneOut | Temporal, num_ground_truth: int, num_tied: int) -> str:
    """Return what a split of the whole log measures on, and how much of that depends on the order of files."""
    message = (
        f"{split.kind}: {num_ground_truth:,} {split.part} items are measured on, of which {num_tied:,} would be others "
        "in another order of files, as the log has several of one time"
    )
    return f"warning: {message}" if num_tied else message


def kept(part: Part, seconds: np.ndarray, codes: np.ndarray, users: Users) -> np.ndarray:
    """Return which rows [N] of the part's day are of the part, bool."""
    table = pa.table({"user_id": users.ids.take(pa.array(codes)), TIME: pa.array(seconds)})
    return holdout.kept(part, table, TIME)


def _begin(day: datetime.date) -> int:
    return day_number(day) * DAY_SECONDS
