"""Counts over a whole stage: the number of a refused row among all that are read, and ids out of range by rank."""

import contextlib
from collections.abc import Callable, Iterable, Iterator

from recsys_core.features.base import RowError


def out_of_range_metrics(ranks: Iterable[dict[str, int]]) -> dict[str, float]:
    """Return a stage's metrics `out_of_range/FEATURE` of what `Engine.out_of_range` counted on each rank."""
    found: dict[str, float] = {}
    for counts in ranks:
        for name, count in counts.items():
            found[f"out_of_range/{name}"] = found.get(f"out_of_range/{name}", 0.0) + count
    return found


@contextlib.contextmanager
def counting_from(first: int | Callable[[int], int]) -> Iterator[None]:
    """Let errors that refuse a row name its number among all rows read; `first` is that of row 0, or computes it."""
    try:
        yield
    except RowError as error:
        row = first(error.row) if callable(first) else first + error.row
        raise RowError(row, error.reason, " of those read") from error
