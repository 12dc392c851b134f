"""Days of shown items with their clicks: each is looked through once for what was clicked, and once to be written.

    OUT/ds=YYYY-MM-DD/part-00000.parquet   a row for each shown item
    OUT/ds=YYYY-MM-DD/_joined.json         what was read, and what became of it
    OUT/_impressions.json                  options and the columns' types, the same for all days

A day appears when it is complete. In memory are its clicks, and of its requests one batch, 16 bytes each, and what
clicks may belong to.
"""

import datetime
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field

from recsys_core import artifacts, ingest, integrity, uri
from recsys_core.artifacts import Frozen
from recsys_core.datasets import base
from recsys_core.progress import Sink
from recsys_core.serving.impressions import request_log
from recsys_core.serving.impressions.clicks import Source
from recsys_core.serving.impressions.day import Counts, Span, join
from recsys_core.serving.impressions.options import Options
from recsys_core.serving.impressions.request_log import Hours
from recsys_core.serving.impressions.table import Columns, Items

_TABLE, _DAY = "_impressions.json", "_joined.json"
_ONE = datetime.timedelta(days=1)


class Request(Frozen):
    """What is joined, and where to. `first_day` and `last_day` None: the days of the log that are complete at `now`.

    `log`, `clicks` and `items` are paths in the readers' grammar; with `{day}` the clicks are parted by day, and the
    items are those of that day.
    """

    log: str
    clicks: str
    out: Path
    now: datetime.datetime
    items: str | None = None
    items_id: str = "item_id"
    options: Options = Options()
    first_day: datetime.date | None = None
    last_day: datetime.date | None = None
    overwrite: bool = False


class Day(Frozen):
    """A day: `joined` now, `kept` as it was joined before, or `waiting`, for the `reason` that is given."""

    day: datetime.date
    state: Literal["joined", "kept", "waiting"]
    reason: str | None = None
    counts: Counts | None = None


class Report(Frozen):
    """What became of the days."""

    days: tuple[Day, ...]


class _Table(Frozen):
    """What is the same for all days of a table."""

    options: dict[str, object]
    items_id: str | None
    types: dict[str, str] = Field(default={})


class _Joined(Frozen):
    """A day that is there, and digests of what it was made of."""

    counts: Counts
    log: str
    clicks: str | None


def run(request: Request, sink: Sink) -> Report:
    """Join the days that are not there yet; with `overwrite` also those that are.

    Raises:
        ValueError: bad input, or a day that was asked for by name and is not complete; days before it stay joined.
    """
    log = request_log.hours(request.log)
    clicks = Source(request.clicks, request.options)
    with ingest.locked(request.out):
        table = _table(request)
        waiting = {span.day: reason for span in _spans(request, log) if (reason := _lacks(request, clicks, span))}
        if waiting and request.last_day is not None:
            day, reason = next(iter(waiting.items()))
            raise ValueError(f"{day} is not complete: {reason}; join it later, or end with an earlier --to")
        days = []
        for span in _spans(request, log):
            if span.day in waiting:
                days.append(Day(day=span.day, state="waiting", reason=waiting[span.day]))
                continue
            made = _join(request, span, log, clicks, table, sink)
            days.append(made)
            if made.state == "joined":
                table = _table(request)
        return Report(days=tuple(days))


def _spans(request: Request, log: Hours) -> Iterator[Span]:
    there = sorted({hour.date() for hour in log})
    first, last = request.first_day or there[0], request.last_day or there[-1]
    if first > last:
        raise ValueError(f"--from {first} is after --to {last}; name days in the order of time")
    for named in (request.first_day, request.last_day):
        if named is not None and named not in there:
            raise ValueError(f"{request.log}: no requests of {named}; it has those of {there[0]} to {there[-1]}")
    return (Span(day, request.options.window) for day in there if first <= day <= last)


def _lacks(request: Request, clicks: Source, span: Span) -> str | None:
    """Return why a day cannot be joined yet."""
    if request.now < span.end + span.window:
        return f"clicks belong to it until {span.end + span.window:%Y-%m-%d %H:%M:%S} UTC"
    return clicks.lacks(span.start, span.end + span.window)


def _table(request: Request) -> _Table | None:
    path = request.out / _TABLE
    if not path.exists():
        if any(request.out.glob("ds=*")):
            raise ValueError(f"{request.out}: holds days that were not joined here ({_TABLE} is missing); name another")
        return None
    table, wanted = integrity.read_record(_Table, path), _fixed(request)
    for name, value in wanted.options.items():
        if table.options.get(name) != value:
            raise ValueError(
                f"{request.out}: joined with {name} {table.options.get(name)}, and not {value}; name another folder, "
                "or say it as it was"
            )
    if table.items_id != wanted.items_id:
        has = "without" if table.items_id is None else "with"
        raise ValueError(f"{request.out}: joined {has} an item table; name another folder, or join it as it was")
    return table


def _fixed(request: Request) -> _Table:
    options = request.options.model_dump(mode="json", exclude={"types", "click_key", "click_item", "click_time"})
    return _Table(options=options, items_id=None if request.items is None else request.items_id)


def _join(request: Request, span: Span, log: Hours, clicks: Source, table: _Table | None, sink: Sink) -> Day:
    folder = request.out / base.partition(span.day)
    near = request_log.between(log, span.start - span.window, span.end + span.window)
    read = uri.fingerprint([location for files in near.values() for location in files])
    of_clicks = clicks.fingerprint(span.start, span.end + span.window)
    if folder.exists() and not request.overwrite:
        if not (folder / _DAY).is_file():
            raise ValueError(
                f"{folder}: is there, and was not joined here ({_DAY} is missing); move it out of the table"
            )
        known = integrity.read_record(_Joined, folder / _DAY)
        changed = [
            name for name, was, now in (("log", known.log, read), ("clicks", known.clicks, of_clicks)) if was != now
        ]
        reason = f"its {' and '.join(changed)} changed since; --overwrite joins it again" if changed else None
        return Day(day=span.day, state="kept", reason=reason, counts=known.counts)
    items = None if request.items is None else Items(request.items, request.items_id, span.day)
    columns = Columns(request.options, None if table is None else table.types)
    aside = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir()
        counts = join(
            span, near, clicks.read(span.start, span.end + span.window), items, columns, request.options, aside, sink
        )
        made = _Joined(counts=counts, log=read, clicks=of_clicks)
        artifacts.write_text(aside / _DAY, integrity.sealed(made.model_dump(mode="json")))
        fixed = _fixed(request).model_copy(update={"types": columns.types})
        if fixed != table:
            artifacts.write_text(request.out / _TABLE, integrity.sealed(fixed.model_dump(mode="json")))
        artifacts.move_into_place(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return Day(day=span.day, state="joined", counts=counts)
