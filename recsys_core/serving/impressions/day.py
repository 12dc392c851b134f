"""One day's lists and clicks: what was clicked is found first, then the rows are written. Legend: R requests."""

import datetime
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from recsys_core.artifacts import Frozen
from recsys_core.datasets import base
from recsys_core.progress import Event, Sink
from recsys_core.serving.impressions import request_log, table
from recsys_core.serving.impressions.attribution import KINDS, Attributed, Shown, attribute
from recsys_core.serving.impressions.clicks import Clicks
from recsys_core.serving.impressions.matching import Matcher, keys
from recsys_core.serving.impressions.options import ITEM_ID, OWN, REQUEST_ID, Options
from recsys_core.serving.impressions.request_log import Hours, Lists
from recsys_core.serving.impressions.table import Columns, Items

STAGE = "join-impressions"
_PLACES = 1 << 24  # more than a list has


class Span(NamedTuple):
    """A day, and how long after it clicks belong to it."""

    day: datetime.date
    window: datetime.timedelta

    @property
    def start(self) -> datetime.datetime:
        """Its first moment, UTC."""
        return datetime.datetime.combine(self.day, datetime.time(), datetime.UTC)

    @property
    def end(self) -> datetime.datetime:
        """The first moment after it."""
        return self.start + datetime.timedelta(days=1)


class Counts(Frozen):
    """What became of a day's requests, shown items and clicks.

    `impressions` are the items of the lists of `requests`; `rows` of them are in the table, and `dropped` says why
    others are not. `clicks` are those of the day, by what became of them, see `attribution.Attributed`; `joined` ones
    may belong to the day before. `positives` are rows that were clicked, by clicks of the day after too.
    """

    requests: int
    of_other_paths: int
    impressions: int
    rows: int
    positives: int
    dropped: dict[str, int]
    clicks: dict[str, int]
    unknown_items: int


class _Looked(NamedTuple):
    """What the first look at a day found: the shown items that clicks may belong to, and requests that are there twice.

    `first` is the number of each file's first row.
    """

    shown: Shown
    twice: np.ndarray
    first: dict[str, int]


class _Rows:
    """Counts rows of the log, and says how far the join is."""

    def __init__(self, span: Span, total: int, sink: Sink) -> None:
        self.num_rows, self._sink, self._started = 0, sink, time.monotonic()
        self._event = Event(stage=STAGE, total=total, message=str(span.day))

    def add(self, count: int) -> None:
        self.num_rows += count
        speed = self.num_rows / max(time.monotonic() - self._started, 1e-9)
        self._sink(self._event.model_copy(update={"done": self.num_rows, "metrics": {"rows_per_second": speed}}))


def join(
    span: Span,
    near: Hours,
    clicks: Clicks,
    items: Items | None,
    columns: Columns,
    options: Options,
    folder: Path,
    sink: Sink,
) -> Counts:
    """Write the rows of a day into `folder`; `near` are the hours in which what it needs was shown.

    Raises:
        ValueError: see the modules beside this one.
    """
    own = request_log.between(near, span.start, span.end)
    both = [location for hours in (near, own) for files in hours.values() for location in files]
    progress = _Rows(span, request_log.num_rows(both), sink)
    matcher = Matcher(clicks, options.key)
    looked = _look(own, near, matcher, columns, options, progress)
    columns.settle()
    if items is not None:
        items.refuse([*OWN, options.label, *columns.types])
    found = attribute(looked.shown, matcher.pair, clicks.second, options.window_seconds)
    at = found.target[found.target >= 0]
    clicked = np.unique(looked.shown.number[at] * _PLACES + looked.shown.place[at])
    writer = _Writer(looked, clicked, items, columns, options)
    written = base.write_parquet(folder / "part-00000.parquet", writer.tables(own, progress))
    assert written == writer.num_rows == writer.impressions - sum(writer.dropped.values())
    return Counts(
        requests=writer.requests,
        of_other_paths=writer.of_other_paths,
        impressions=writer.impressions,
        rows=written,
        positives=writer.positives,
        dropped=writer.dropped,
        clicks=_counted(span, clicks, found),
        unknown_items=writer.unknown_items,
    )


def _look(own: Hours, near: Hours, matcher: Matcher, columns: Columns, options: Options, progress: _Rows) -> _Looked:
    shown: list[Shown] = []
    digests: list[np.ndarray] = [np.zeros((0, 2), np.uint64)]
    numbers: list[np.ndarray] = [np.zeros(0, np.int64)]
    first: dict[str, int] = {}
    has_key = False
    for hour, files in near.items():
        for location in files:
            first[location.path] = progress.num_rows
            for counted in request_log.read(hour, location, progress.num_rows, options.paths):
                progress.add(counted.num_rows)
                if (lists := counted.lists) is None:
                    continue
                if hour in own:
                    columns.observe(_renamed(lists, options.key))
                has_key = has_key or options.key == REQUEST_ID or any(options.key in user for user in lists.columns)
                shown.append(matcher.shown(lists, _places(lists, options, {})))
                digests.append(lists.digest)
                numbers.append(lists.number)
    if not has_key and shown:
        raise ValueError(
            f"--key {options.key}: no request has such a column (they have {', '.join(columns.names)}); name one of "
            f"them, or {REQUEST_ID}"
        )
    number, digest = np.concatenate(numbers), np.concatenate(digests)
    # Of a request that is logged again the last one is what the client saw.
    order = np.lexsort((number, digest[:, 1], digest[:, 0]))
    same = (digest[order][1:] == digest[order][:-1]).all(axis=1)
    twice = np.sort(number[order[:-1][same]])
    joined = Shown(*(np.concatenate([getattr(one, name) for one in shown] or [twice[:0]]) for name in Shown._fields))
    kept = ~np.isin(joined.number, twice)
    return _Looked(Shown(*(values[kept] for values in joined)), twice, first)


class _Writer:
    """Makes the rows of a day's own hours, and counts them."""

    def __init__(
        self, looked: _Looked, clicked: np.ndarray, items: Items | None, columns: Columns, options: Options
    ) -> None:
        self._looked, self._clicked, self._items, self._columns, self._options = (
            looked,
            clicked,
            items,
            columns,
            options,
        )
        self.requests = self.of_other_paths = self.impressions = self.num_rows = self.positives = 0
        self.dropped: dict[str, int] = {}
        self.dropped |= dict.fromkeys(("logged_twice", "without_key", "without_item", "beyond_shown"), 0)
        self.unknown_items = 0

    def tables(self, own: Hours, progress: _Rows) -> Iterator[pa.Table]:
        """Yield the rows, batch by batch of requests."""
        for hour, files in own.items():
            for location in files:
                first = self._looked.first[location.path]
                for counted in request_log.read(hour, location, first, self._options.paths):
                    progress.add(counted.num_rows)
                    lists = counted.lists
                    self.of_other_paths += counted.num_rows - (0 if lists is None else len(lists.items))
                    if lists is not None:
                        yield self._of(lists)

    def _of(self, lists: Lists) -> pa.Table:
        twice = np.isin(lists.number, self._looked.twice)
        unknown = np.array([value is None for value in keys(lists, self._options.key)])
        self.requests += len(lists.items)
        self.impressions += sum(map(len, lists.items))
        lists = _renamed(lists, self._options.key)
        for name, rows in (("logged_twice", twice), ("without_key", unknown & ~twice)):
            self.dropped[name] += sum(len(lists.items[row]) for row in np.flatnonzero(rows))
        places = _places(lists, self._options, self.dropped, ~(twice | unknown))
        composites = [number * _PLACES + one for number, one in zip(lists.number, places, strict=True)]
        labels = np.isin(np.concatenate(composites), self._clicked)
        made = table.rows(lists, places, labels, self._columns.types, self._options)
        self.num_rows += made.num_rows
        self.positives += int(labels.sum())
        return made if self._items is None else self._with_fields(made, self._items)

    def _with_fields(self, made: pa.Table, items: Items) -> pa.Table:
        fields, num_unknown = items.of(made[ITEM_ID].combine_chunks())
        self.unknown_items += num_unknown
        for name in fields.column_names:
            made = made.add_column(made.num_columns - 1, fields.schema.field(name), fields[name])
        return made


def _places(
    lists: Lists, options: Options, dropped: dict[str, int], kept: np.ndarray | None = None
) -> list[np.ndarray]:
    """Return which items of each list are rows, and count in `dropped` why others are not."""
    found: list[np.ndarray] = []
    for row, items in enumerate(lists.items):
        if kept is not None and not kept[row]:
            found.append(np.zeros(0, np.int64))
            continue
        shown = len(items) if options.shown is None else min(len(items), options.shown)
        places = np.array([place for place in range(shown) if items[place] is not None], np.int64)
        dropped["without_item"] = dropped.get("without_item", 0) + shown - len(places)
        dropped["beyond_shown"] = dropped.get("beyond_shown", 0) + len(items) - shown
        found.append(places)
    return found


def _renamed(lists: Lists, key: str) -> Lists:
    """Return the lists, whose key is called otherwise where it is hashed: no model may take it for what it is asked."""
    if not any(key in veiled for veiled in lists.veiled):
        return lists
    users = [
        {f"{name}_hashed" if name == key and key in veiled else name: value for name, value in user.items()}
        for user, veiled in zip(lists.columns, lists.veiled, strict=True)
    ]
    return lists._replace(columns=users, veiled=[veiled - {key} for veiled in lists.veiled])


def _counted(span: Span, clicks: Clicks, found: Attributed) -> dict[str, int]:
    start, end = (int(at.timestamp()) for at in (span.start, span.end))
    own = (clicks.second >= start) & (clicks.second < end)
    counts = {name: int((getattr(found, name) & own).sum()) for name in KINDS}
    assert sum(counts.values()) == int(own.sum())
    null = int(((clicks.null_second >= start) & (clicks.null_second < end)).sum())
    return counts | {"without_key": null}
