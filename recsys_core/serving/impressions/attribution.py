"""Which shown item a click belongs to: the newest list before it that had the item. Legend: S shown items, C clicks."""

from typing import NamedTuple

import numpy as np


class Shown(NamedTuple):
    """Items that were shown to a user who clicked them at some time: int64 [S] each.

    `pair` is a number of the key and the item, the same as a click's; `number` that of the request, `place` from 0 on.
    """

    pair: np.ndarray
    second: np.ndarray
    number: np.ndarray
    place: np.ndarray


class Attributed(NamedTuple):
    """Of each click [C]: `target` int64, the row of `Shown` that it belongs to, -1 for none; why, as booleans.

    Exactly one holds of a click: `joined`; `repeated`, of an item that was clicked before, as it was shown then;
    `duplicate`, of a click that is there already; `late`, after the window; `early`, before it was first shown; or
    `unmatched`: it was not shown.
    """

    target: np.ndarray
    joined: np.ndarray
    repeated: np.ndarray
    duplicate: np.ndarray
    late: np.ndarray
    early: np.ndarray
    unmatched: np.ndarray


KINDS = ("joined", "repeated", "duplicate", "late", "early", "unmatched")


def attribute(shown: Shown, pair: np.ndarray, second: np.ndarray, window_seconds: int) -> Attributed:
    """Attribute clicks, int64 [C] each, to the newest list before them; both ends of the window belong to it."""
    order = np.lexsort((shown.place, shown.number, shown.second, shown.pair))
    times = np.unique(np.concatenate([shown.second, second]))
    # One number for a pair and a time, in the order of pairs, then of times.
    assert int(max(shown.pair.max(initial=0), pair.max(initial=0)) + 1) * len(times) < 1 << 63
    at_S, at_C = (
        pairs * len(times) + np.searchsorted(times, seconds)
        for pairs, seconds in ((shown.pair[order], shown.second[order]), (pair, second))
    )
    before = np.searchsorted(at_S, at_C, side="right") - 1
    first = np.searchsorted(at_S, pair * len(times))
    has_before = (before >= 0) & (_at(shown.pair[order], before) == pair)
    is_known = _at(shown.pair[order], first) == pair
    gap = second - _at(shown.second[order], before)
    inside = has_before & (gap <= window_seconds)
    target = np.where(inside, _at(order, before), -1)
    duplicate = ~_first_of_each(at_C)
    joined = np.zeros(len(pair), bool)
    rows = np.flatnonzero(inside & ~duplicate)
    # Of the clicks of one shown item the earliest.
    rows = rows[np.argsort(second[rows], kind="stable")]
    joined[rows[_first_of_each(target[rows])]] = True
    return Attributed(
        target=target,
        joined=joined,
        repeated=inside & ~duplicate & ~joined,
        duplicate=duplicate,
        late=has_before & ~inside & ~duplicate,
        early=is_known & ~has_before & ~duplicate,
        unmatched=~is_known & ~duplicate,
    )


def _at(values: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Return the values at `places`, -1 for those outside."""
    inside = (places >= 0) & (places < len(values))
    found = np.full(len(places), -1, np.int64)
    found[inside] = values[places[inside]]
    return found


def _first_of_each(values: np.ndarray) -> np.ndarray:
    """Return bool [C], whether no value before is the same."""
    first = np.zeros(len(values), bool)
    first[np.unique(values, return_index=True)[1]] = True
    return first
