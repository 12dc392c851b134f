"""Splits of a whole log: which interactions are measured on, which are known but not learned from, and which left out.

Both put the interactions in the order of time and, among those of one second, of the log's files. How many of the
targets depend on the latter is counted: of another order they would be other targets.

Legend: R interactions, oldest first.
"""

from typing import NamedTuple

import numpy as np

from recsys_core.artifacts import LeaveOneOut, Split, Temporal

LEARNED, KNOWN, MEASURED, LEFT_OUT = range(4)
"""Roles: learned from; part of histories and of what was seen, but not learned from; the targets; none of these."""
FEWEST = 3
"""Interactions of a user of whom one is left out: one is learned from, one validated on, one tested on."""


class Division(NamedTuple):
    """`roles` int8 [R], and how many of those measured on would be others if the files had another order."""

    roles: np.ndarray
    num_tied: int


def divide(split: Split, seconds: np.ndarray, users: np.ndarray, items: np.ndarray) -> Division:
    """Return each interaction's role, of its time, user and item [R], which are numbers; times rise."""
    assert (np.diff(seconds) >= 0).all(), "oldest first"
    known = LEARNED if split.learns_validation else KNOWN
    by_part = {"test": (known, MEASURED), "validation": (MEASURED, LEFT_OUT)}[split.part]
    if isinstance(split, LeaveOneOut):
        return _leave_one_out(seconds, users, items, by_part)
    assert isinstance(split, Temporal), "these are the two"
    return _temporal(split, seconds, by_part)


def _leave_one_out(seconds: np.ndarray, users: np.ndarray, items: np.ndarray, by_part: tuple[int, int]) -> Division:
    """Kang & McAuley 2018, Self-Attentive Sequential Recommendation (section IV.A)."""
    # By user, each one's in the order of time:
    #
    #     user       3  3  3  3  8  8
    #     seconds    5  7  7  9  1  2
    #     from_end   3  2  1  0  1  0      of 3 the last two, of 8, who has fewer than three, none
    #     group      0  1  1  2  3  4      of one user and second; the order of files decides within it
    order = np.argsort(users, kind="stable")
    own, at, taken = users[order], seconds[order], items[order]
    starts = np.flatnonzero(np.diff(own, prepend=own[:1] - 1))
    counts = np.diff(starts, append=len(own))
    from_end = np.repeat(starts + counts, counts) - 1 - np.arange(len(own))
    enough = np.repeat(counts >= FEWEST, counts)
    roles = np.full(len(own), LEARNED, np.int8)
    for place, role in zip((1, 0), by_part, strict=True):
        roles[enough & (from_end == place)] = role
    begins = np.zeros(len(own), bool)
    begins[starts] = True
    begins[1:] |= at[1:] != at[:-1]
    firsts = np.flatnonzero(begins)
    differ = np.minimum.reduceat(taken, firsts) != np.maximum.reduceat(taken, firsts) if len(own) else begins
    tied = np.repeat(differ, np.diff(firsts, append=len(own))) & (roles == MEASURED)
    by_time = np.empty_like(roles)
    by_time[order] = roles
    return Division(by_time, int(tied.sum()))


def _temporal(split: Temporal, seconds: np.ndarray, by_part: tuple[int, int]) -> Division:
    num_rows = len(seconds)
    test = num_rows - round(split.share * num_rows)
    validation = test - round(split.validation_share * num_rows)
    roles = np.full(num_rows, LEARNED, np.int8)
    roles[validation:test], roles[test:] = by_part
    # Of the second in which a boundary lies, rows on both sides of it stand where the files' order has put them.
    cut = [seconds[at] for at in (validation, test) if 0 < at < num_rows and seconds[at - 1] == seconds[at]]
    return Division(roles, int(np.isin(seconds[roles == MEASURED], cut).sum()))
