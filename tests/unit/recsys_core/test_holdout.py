"""Which rows a day's run learns from and is measured on: divisions by hand, and the exact accounting of many runs."""

import datetime
import random

import numpy as np
import pyarrow as pa
import pytest

from recsys_core import holdout
from recsys_core.artifacts import Holdout, Learned, NextDay, Rows, Tail
from recsys_core.columns import RowError
from recsys_core.datasets.base import day_after, day_number
from recsys_core.holdout import Part

DAYS = [datetime.date(2024, 1, number) for number in range(1, 11)]
FIRST, SECOND, THIRD, FOURTH, FIFTH, *_ = DAYS
MIDNIGHT = day_number(FIRST) * 86_400


def test_a_tail_is_the_days_newest_hours() -> None:
    hours = [0, 20.99, 21, 23.99]
    seconds = pa.array([int(MIDNIGHT + hour * 3_600) for hour in hours])
    for times in (seconds, seconds.cast(pa.timestamp("s", "UTC")), pa.array([str(MIDNIGHT + 75_600)] * 4)):
        found = holdout.selected(Tail(hours=3), pa.table({"at": times}), FIRST, "at")
        assert found.tolist() == ([False, False, True, True] if times.type != pa.string() else [True] * 4)
    assert holdout.selected(Tail(hours=0.005), pa.table({"at": seconds}), FIRST, "at").sum() == 0
    assert holdout.selected(NextDay(), pa.table({"at": seconds}), FIRST, None).sum() == 0


@pytest.mark.parametrize(
    ("times", "row", "message"),
    [
        ([MIDNIGHT, None], 1, "column 'at' is null; data.time_column is the time of every row"),
        ([MIDNIGHT, MIDNIGHT - 1], 1, "column 'at' is 2023-12-31 23:59:59 in UTC, which is not on 2024-01-01"),
        ([MIDNIGHT + 86_400], 0, "column 'at' is 2024-01-02 00:00:00 in UTC, which is not on 2024-01-01"),
        (["soon"], 0, "column 'at': 'soon' is no time"),
    ],
)
def test_times_that_are_none_of_the_day_are_refused(times: list[object], row: int, message: str) -> None:
    with pytest.raises(RowError) as refused:
        holdout.selected(Tail(hours=3), pa.table({"at": times}), FIRST, "at")
    assert refused.value.row == row
    assert message in refused.value.reason


def test_rows_are_held_out_by_key_the_same_ones_always() -> None:
    users = pa.array(np.arange(20_000))
    by = Rows(share=0.1, by="user")

    def keys(values: pa.Array, by: Rows = by) -> set[int]:
        mask = holdout.selected(by, pa.table({"user": values}), FIRST, None)
        return set(map(int, values.filter(pa.array(mask)).to_pylist()))

    found = keys(users)
    # A share of 20,000 keys has a standard deviation of 0.2 %.
    assert abs(len(found) / 20_000 - 0.1) < 0.01
    assert keys(users.cast(pa.string())) == found
    assert keys(users.take(pa.array(np.arange(20_000)[::-1]))) == found
    assert keys(users.cast(pa.int32()).dictionary_encode().dictionary_decode()) == found
    # A smaller share is a part of a larger one.
    assert keys(users, Rows(share=0.05, by="user")) < found
    # A key without a value is learned from.
    empty = pa.table({"user": pa.array([None, *sorted(found)[:2]], pa.int64())})
    assert holdout.selected(by, empty, FIRST, None).tolist() == [False, True, True]
    with pytest.raises(ValueError, match=r"no column 'usr', which holdout.by names \(there are: user\); did you mean"):
        holdout.selected(Rows(share=0.1, by="usr"), empty, FIRST, None)
    with pytest.raises(RowError, match="column 'user': id 0.5 is no whole number"):
        holdout.selected(by, pa.table({"user": [0.5]}), FIRST, None)


def plan(holdout_: Holdout, day: datetime.date, base: Learned | None, window: int | None = None) -> holdout.Plan:
    return holdout.plan(holdout_, day, DAYS, base, window)


def test_a_cold_start_learns_from_its_window() -> None:
    assert plan(NextDay(), THIRD, None, 2) == holdout.Plan(
        (Part(SECOND), Part(THIRD)), Part(FOURTH), Learned(first_day=SECOND, last_day=THIRD)
    )
    tail = Tail(hours=2)
    assert plan(tail, SECOND, None) == holdout.Plan(
        (Part(FIRST), Part(SECOND, but=tail)),
        Part(SECOND, only=tail),
        Learned(first_day=FIRST, last_day=SECOND, withheld=tail, withheld_since=SECOND),
    )
    rows = Rows(share=0.2, by="user")
    assert plan(rows, SECOND, None) == holdout.Plan(
        (Part(FIRST, but=rows), Part(SECOND, but=rows)),
        Part(SECOND, only=rows),
        Learned(first_day=FIRST, last_day=SECOND, withheld=rows, withheld_since=FIRST),
    )


def test_a_withheld_tail_is_learned_from_by_the_next_run() -> None:
    tail = Tail(hours=2)
    base = plan(tail, SECOND, None).learned
    found = plan(tail, FOURTH, base)
    assert found.train == (Part(SECOND, only=tail), Part(THIRD), Part(FOURTH, but=tail))
    with pytest.raises(
        ValueError, match="day 2024-01-02: its last 2 hours are still to be learned from, and it has no"
    ):
        holdout.plan(tail, FOURTH, DAYS[2:], base, None)


def test_what_the_base_has_learned_from_is_not_measured_on() -> None:
    absorbed = Learned(first_day=FIRST, last_day=FOURTH)
    assert plan(NextDay(), FOURTH, absorbed) == holdout.Plan((), Part(FIFTH), absorbed)
    for kind, day in ((NextDay(), THIRD), (Tail(hours=2), FOURTH), (Rows(share=0.2, by="user"), FOURTH)):
        with pytest.raises(ValueError, match="measured on rows of 2024-01-04, and the release that is continued has"):
            plan(kind, day, absorbed)


def test_absorbing_takes_all_that_was_withheld_of_the_days_that_are_there() -> None:
    rows = Rows(share=0.2, by="user")
    assert holdout.held_out(rows, THIRD) == Part(THIRD, only=rows)
    withheld = Learned(first_day=FIRST, last_day=THIRD, withheld=rows, withheld_since=SECOND)
    parts, learned = holdout.absorb(withheld, THIRD, DAYS)
    assert parts == (Part(SECOND, only=rows), Part(THIRD, only=rows))
    assert learned == Learned(first_day=FIRST, last_day=THIRD)
    parts, learned = holdout.absorb(withheld, THIRD, DAYS[2:])
    assert parts == (Part(THIRD, only=rows),)
    assert learned == Learned(first_day=THIRD, last_day=THIRD)
    assert holdout.held_out(NextDay(), THIRD) == Part(FOURTH)
    parts, learned = holdout.absorb(Learned(first_day=FIRST, last_day=THIRD), FOURTH, DAYS)
    assert (parts, learned) == ((Part(FOURTH),), Learned(first_day=FIRST, last_day=FOURTH))


def recorded(learned: Learned) -> set[tuple[datetime.date, int]]:
    """Return what the record says was learned from, of the days on record; rows are hours."""
    found = set()
    for day in DAYS:
        if learned.first_day <= day <= learned.last_day:
            hours = set(range(24))
            if learned.withheld is not None and learned.withheld_since is not None and day >= learned.withheld_since:
                hours -= chosen(learned.withheld)
            found |= {(day, hour) for hour in hours}
    return found


def chosen(kind: Holdout) -> set[int]:
    if isinstance(kind, Tail):
        return set(range(24 - int(kind.hours), 24))
    return {hour for hour in range(24) if hour % 3 < kind.share * 3} if isinstance(kind, Rows) else set()


def of_part(part: Part) -> set[tuple[datetime.date, int]]:
    hours = set(range(24)) if part.only is None else chosen(part.only)
    return {(part.day, hour) for hour in hours - (chosen(part.but) if part.but is not None else set())}


KINDS: list[Holdout] = [NextDay(), Tail(hours=2), Tail(hours=5), Rows(share=0.5, by="u"), Rows(share=0.7, by="u")]


@pytest.mark.parametrize("changes", [False, True])
@pytest.mark.parametrize("absorbs", [False, True])
def test_no_row_is_learned_from_twice_or_left_out(*, changes: bool, absorbs: bool) -> None:
    """Runs of which some are turned down: a run's rows are just those that its base has not learned from."""
    rng = random.Random(0)
    for _ in range(200):
        kind = rng.choice(KINDS)
        base: Learned | None = None
        known: set[tuple[datetime.date, int]] = set()
        for day in DAYS[:-1]:
            kind = rng.choice(KINDS) if changes else kind
            if base is not None and base.last_day >= holdout.last_day(day, kind):
                continue
            found = plan(kind, day, base, rng.choice([None, 1, 3]))
            parts = [of_part(part) for part in found.train]
            train = set().union(*parts)
            held_out = of_part(found.held_out)
            assert len(train) == sum(map(len, parts)), "no row twice in a run"
            assert not train & known, "no row twice in two runs"
            assert not held_out & (train | known), "no row is measured on that was learned from"
            now = known | train
            assert recorded(found.learned) == {row for row in now if row[0] >= found.learned.first_day}
            if base is not None and isinstance(base.withheld, Tail | None) and base.last_day < day:
                due = {(at, hour) for at in DAYS if base.first_day <= at <= day for hour in range(24)}
                withheld = chosen(kind) if isinstance(kind, Rows) else set()
                left = {row for row in due - now if row[0] <= base.last_day or row[1] not in withheld}
                assert left <= held_out, "no row is left out but the held-out ones"
            assert not holdout.has_learned(found.learned, found.held_out)
            if rng.random() < 0.6:
                base, known = found.learned, now
                if absorbs:
                    begin = rng.choice([FIRST, day])
                    there = [at for at in DAYS if at >= begin]
                    more, absorbed = holdout.absorb(base, found.held_out.day, there)
                    parts = [of_part(part) for part in more]
                    rows = set().union(*parts)
                    assert len(rows) == sum(map(len, parts)), "no row twice in what is absorbed"
                    assert held_out <= rows, "what was measured on is absorbed"
                    assert not rows & known, "no row is absorbed that was learned from"
                    base, known = absorbed, known | rows
                    assert base.withheld is None
                    assert recorded(base) == {row for row in known if row[0] >= base.first_day}
                    assert holdout.has_learned(base, found.held_out)
    assert day_after(day) == DAYS[-1]
