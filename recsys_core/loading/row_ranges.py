"""Ranges of positions: what of an epoch was consumed, what is left, and which part of it is a rank's."""

from collections.abc import Sequence

RowRange = tuple[int, int]


def merge(intervals: Sequence[RowRange]) -> list[RowRange]:
    """Return the union of `intervals` as sorted, disjoint, non-touching, non-empty intervals.

    Raises:
        ValueError: two intervals overlap, so some row would have been consumed twice.
    """
    merged: list[RowRange] = []
    for start, stop in sorted((a, b) for a, b in intervals if a < b):
        if merged and start < merged[-1][1]:
            raise ValueError(f"rows [{start}, {merged[-1][1]}) were consumed twice; the position is damaged")
        if merged and start == merged[-1][1]:
            merged[-1] = (merged[-1][0], stop)
        else:
            merged.append((start, stop))
    return merged


def remaining(consumed: Sequence[RowRange], num_rows: int) -> list[RowRange]:
    """Return the positions of [0, num_rows) that `consumed` does not hold, as sorted disjoint intervals."""
    edges = [0, *(edge for interval in merge(consumed) for edge in interval), num_rows]
    return [(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if a < b]


def cut(intervals: Sequence[RowRange], shard: int, num_shards: int) -> list[RowRange]:
    """Return the part of `intervals` that is `shard`'s: parts are disjoint, complete, and differ by a row at most."""
    total = sum(b - a for a, b in intervals)
    return part_of(intervals, total * shard // num_shards, total * (shard + 1) // num_shards)


def part_of(intervals: Sequence[RowRange], start: int, stop: int) -> list[RowRange]:
    """Return the positions that stand at places [start, stop) of the concatenated `intervals`."""
    part: list[RowRange] = []
    passed = 0
    for a, b in intervals:
        low, high = max(start - passed, 0) + a, min(stop - passed, b - a) + a
        if low < high:
            part.append((low, high))
        passed += b - a
    return part
