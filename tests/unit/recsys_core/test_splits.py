"""Splits of a whole log: by hand, and against an oracle that goes through it user by user."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from recsys_core import splits
from recsys_core.artifacts import LeaveOneOut, Split, Temporal
from recsys_core.splits import KNOWN, LEARNED, LEFT_OUT, MEASURED

# second, user, item: user 7 has too few; of user 1 the last two are of one second, of user 2 the two before the last.
ROWS = [(1, 1, 5), (1, 2, 5), (2, 7, 5), (3, 1, 6), (4, 2, 8), (4, 2, 9), (5, 1, 5), (5, 1, 7), (6, 2, 5), (6, 7, 5)]


def divided(split: Split, rows: list[tuple[int, int, int]] = ROWS) -> tuple[list[int], int]:
    seconds, users, items = (np.array(column, np.int64) for column in zip(*rows, strict=True))
    roles, num_tied = splits.divide(split, seconds, users, items)
    return roles.tolist(), num_tied


def test_each_user_s_last_one_is_measured_on_and_the_one_before_is_known() -> None:
    a, k, m = LEARNED, KNOWN, MEASURED
    assert divided(LeaveOneOut()) == ([a, a, a, a, a, k, k, m, m, a], 1)
    assert divided(LeaveOneOut(learns_validation=True)) == ([a, a, a, a, a, a, a, m, m, a], 1)


def test_to_validate_is_to_measure_the_one_before_with_the_last_one_unknown() -> None:
    a, m, o = LEARNED, MEASURED, LEFT_OUT
    assert divided(LeaveOneOut(part="validation")) == ([a, a, a, a, a, m, m, o, o, a], 2)


def test_one_item_taken_twice_in_a_second_depends_on_no_order() -> None:
    rows = [(1, 1, 5), (2, 1, 6), (3, 1, 7), (3, 1, 7)]
    assert divided(LeaveOneOut(), rows) == ([LEARNED, LEARNED, KNOWN, MEASURED], 0)


def test_the_newest_share_of_all_is_measured_on_and_what_is_just_before_is_known() -> None:
    a, k, m, o = LEARNED, KNOWN, MEASURED, LEFT_OUT
    assert divided(Temporal(share=0.2)) == ([a] * 8 + [m] * 2, 0)
    # The boundary lies between the two interactions of second 5, of which one is measured on.
    assert divided(Temporal(share=0.3, validation_share=0.2)) == ([a] * 5 + [k] * 2 + [m] * 3, 1)
    # Second 4 is cut at the beginning of what is measured on, and second 5 at its end.
    assert divided(Temporal(share=0.3, validation_share=0.2, part="validation")) == ([a] * 5 + [m] * 2 + [o] * 3, 2)


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (LeaveOneOut, {"part": "validation", "learns_validation": True}, "learns_validation: part: validation is mea"),
        (Temporal, {"share": 0.5, "validation_share": 0.5}, "share and validation_share: they leave nothing"),
        (Temporal, {"share": 0.5, "part": "validation"}, "validation_share: 0, and part: validation"),
        (Temporal, {}, "share"),
    ],
)
def test_splits_that_contradict_themselves_are_refused(kind: Any, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        kind.model_validate(fields)


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 3), st.integers(0, 2))), st.sampled_from(["test", "valid"]))
def test_agrees_with_a_slow_oracle(rows: list[tuple[int, int, int]], part: str) -> None:
    rows = sorted(rows, key=lambda row: row[0])
    split = LeaveOneOut() if part == "test" else LeaveOneOut(part="validation")
    roles, num_tied = [LEARNED] * len(rows), 0
    for user in {row[1] for row in rows}:
        own = [at for at, row in enumerate(rows) if row[1] == user]
        if len(own) < 3:
            continue
        last, before = own[-1], own[-2]
        roles[last], roles[before] = (MEASURED, KNOWN) if part == "test" else (LEFT_OUT, MEASURED)
        target = last if part == "test" else before
        num_tied += len({rows[at][2] for at in own if rows[at][0] == rows[target][0]}) > 1
    assert divided(split, rows) == (roles, num_tied) if rows else True
