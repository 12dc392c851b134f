"""Which rows of Criteo's logs go where: into splits, by one of several protocols, or into days."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from recsys_core.datasets.labelled import base

NUM_KAGGLE_DAYS = 7
SHARES = {"bars_x1": (0.7, 0.2, 0.1), "bars_x4": (0.8, 0.1, 0.1)}
"""Of train, valid and test, in the protocols that draw rows at random."""


class File(NamedTuple):
    """One of the source's files, and the rows before it and behind it."""

    name: str
    start: int
    end: int


class Cut(NamedTuple):
    """Which folder each row goes to: `names[n]` for those that `numbers(first, end)`, int8 [end - first], gives n.

    The first `num_learned` folders are those that are learned from.
    """

    names: list[str]
    num_learned: int
    numbers: Callable[[int, int], np.ndarray]


def splits(protocol: str, files: list[File], seed: int) -> Cut:
    """Return the cut into splits of `datasets.labelled.criteo`."""
    num_rows = files[-1].end
    if protocol in SHARES:
        return _drawn(SHARES[protocol], seed)
    last_seventh = num_rows - round(num_rows / NUM_KAGGLE_DAYS)
    if protocol == "mindspore":
        return _ranges(["train", "test"], [0, last_seventh], 1)
    last_day = files[-1].start if len(files) > 1 else last_seventh
    return _ranges([*base.SPLITS], [0, last_day, num_rows - (num_rows - last_day) // 2], 1)


def days(files: list[File]) -> Cut:
    """Return the cut into days, the oldest first, which are named by their numbers; all are learned from."""
    starts = [file.start for file in files]
    if len(files) == 1:
        starts = [round(number * files[0].end / NUM_KAGGLE_DAYS) for number in range(NUM_KAGGLE_DAYS)]
    return _ranges([str(number) for number in range(len(starts))], starts, len(starts))


def _ranges(names: list[str], starts: list[int], num_learned: int) -> Cut:
    """Return the cut at which `names[n]` has the rows from `starts[n]` up to `starts[n + 1]`."""

    def numbers(first: int, end: int) -> np.ndarray:
        return (np.searchsorted(starts, np.arange(first, end), side="right") - 1).astype(np.int8)

    return Cut(names, num_learned, numbers)


def _drawn(shares: tuple[float, ...], seed: int) -> Cut:
    edges = np.cumsum(shares)[:-1]

    def numbers(first: int, end: int) -> np.ndarray:
        # A row's draw depends on its number alone, whichever rows are drawn with it.
        bits = np.random.PCG64(seed).advance(first)
        return np.searchsorted(edges, np.random.Generator(bits).random(end - first), side="right").astype(np.int8)

    return Cut([*base.SPLITS], 1, numbers)
