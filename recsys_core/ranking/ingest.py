"""Ingest, the first stage of daily ranking: bring the days that a run needs to one place, and look at their labels.

A day is copied and looked at once, and again when its files have changed: beside the copies it is remembered what was
found.
"""

import datetime
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, NamedTuple

from recsys_core import artifacts, holdout, ingest, readers, uri
from recsys_core.artifacts import Holdout, LabelledLog, Learned, NextDay, digest_of
from recsys_core.datasets import _by_day, _copies, base
from recsys_core.datasets._copies import Copies, Day
from recsys_core.datasets.labelled import labelled_days
from recsys_core.progress import Event, Sink
from recsys_core.ranking import Config
from recsys_core.ranking.prepare.labels import blocks, naming, positives

_STAGE = "ingest"


class Request(artifacts.Request):
    """What a run of `day` needs: the days `first_day`..`last_day` of `data`; `fingerprint` is theirs, see `needed`.

    Where the log lies or is copied to does not count.
    """

    UNKEYED: ClassVar[frozenset[str]] = artifacts.Request.UNKEYED | {"import_root"}

    config: Config
    data: labelled_days.Config
    day: datetime.date
    first_day: datetime.date
    last_day: datetime.date
    import_root: Path
    fingerprint: str


class Needed(NamedTuple):
    """The days that a run needs to have, and what shows that one of them has changed."""

    first_day: datetime.date
    last_day: datetime.date
    fingerprint: str


def needed(
    data: labelled_days.Config,
    day: datetime.date,
    *,
    held_out: Holdout,
    base_learned: Learned | None,
    window_days: int | None,
    reference_days: int = 0,
) -> Needed:
    """Return what a run of `day` needs; `reference_days` are compared with the ones that it learns from.

    No content is read.

    Raises:
        ValueError: the source cannot be reached, or does not have the day or the one that is measured on.
    """
    last = holdout.last_day(day, held_out)
    first = base.days_before(holdout.first_day(day, base_learned, window_days), reference_days)
    parts = labelled_days.days(data, first, last)
    _require(data, parts, day, last)
    return Needed(first, last, labelled_days.fingerprint(parts))


def last_day(data: labelled_days.Config, held_out: Holdout) -> datetime.date:
    """Return the last day that can be run: it has a partition, and so has the one that is measured on.

    Raises:
        ValueError: the source cannot be reached, or there is no such day.
    """
    there = labelled_days.days(data, datetime.date.min, datetime.date.max)
    for day in reversed(there):
        if not isinstance(held_out, NextDay) or (day < datetime.date.max and base.day_after(day) in there):
            return day
    wanted = "two days in a row, and a run needs a day and the one after it" if there else "day in it"
    raise ValueError(f"{data.source}: there are no {wanted}")


def run(request: Request, sink: Sink) -> LabelledLog:
    """Copy what is not read in place, and check the label, the weight and the time of every row.

    Raises:
        ValueError: a day that is needed is missing or has no rows, a file cannot be read, a column is missing, a label
            is not 0 or 1, a weight is none, or a time is not of its day; nothing is written then.
    """
    found = look(request, sink)
    for day, role in _roles(request.day, request.last_day):
        if not found[day].num_rows:
            raise ValueError(f"{request.data.source}: {day} ({role}) has no rows; write its partition again")
    with artifacts.pending(request.output) as aside:
        days = _copies.record(found, aside.path)
        return aside.commit(
            LabelledLog,
            request,
            num_rows=sum(day.num_rows for day in days),
            source=request.data.source,
            day=request.day,
            days=days,
            columns=found[request.last_day].columns,
        )


def look(request: Request, sink: Sink) -> dict[datetime.date, Day]:
    """Copy and check the days, but those that have been and are still there; see `run`, which does it too.

    A log refers to copies, which may have been deleted since it was made: before one of an earlier run is taken again,
    this brings them back.

    Raises:
        ValueError: see `run`; or a day has changed since the run began.
    """
    data = request.data
    parts = labelled_days.days(data, request.first_day, request.last_day)
    _require(data, parts, request.day, request.last_day)
    if labelled_days.fingerprint(parts) != request.fingerprint:
        raise ValueError(f"{data.source}: a day that is needed has changed since this run began; run it again")

    def opened(at: datetime.date, path: uri.Source) -> readers.Reader:
        return next(iter(readers.alike({str(at): path}, data.csv, "data.csv")[0].values()))

    home, found = (request.import_root / f"{data.kind}-{_version(data)}").absolute(), dict[datetime.date, Day]()
    copies, looked_at = Copies(home, opened, sink), digest_of([request.config, data.time_column])
    with ingest.locked(home.parent):
        for number, (day, part) in enumerate(parts.items()):
            sink(Event(stage=_STAGE, done=number, total=len(parts), unit="days", message=f"checking {day}"))
            found[day] = copies.look(looked_at, day, part, functools.partial(_num_positives, request, day))
    return found


def _roles(day: datetime.date, last: datetime.date) -> list[tuple[datetime.date, str]]:
    measured = [(last, f"on which the run of {day} is measured")] if last != day else []
    return [(day, "the day itself"), *measured]


def _require(
    data: labelled_days.Config, parts: Mapping[datetime.date, readers.Part], day: datetime.date, last: datetime.date
) -> None:
    for wanted, role in _roles(day, last):
        if wanted not in parts:
            there = labelled_days.days(data, datetime.date.min, datetime.date.max)
            span = f"the {len(there)} days from {min(there)} to {max(there)}" if there else "no day at all"
            raise ValueError(f"{data.source}: has no partition of {wanted} ({role}), but {span}; name another day")


def _version(data: labelled_days.Config) -> str:
    """Return what the copies of a source follow from, beside the source."""
    code = [Path(str(module.__file__)) for module in (labelled_days, _by_day, _copies)]
    fields = data.model_dump(mode="json", exclude={"time_column"})
    return digest_of([fields, data.root, [artifacts.digest_of_file(path) for path in [*code, Path(__file__)]]])


def _num_positives(request: Request, day: datetime.date, reader: readers.Reader) -> int:
    config, time = request.config, request.data.time_column
    keys: dict[str | None, str] = {task.label: config.label_key(name) for name, task in config.named.items()}
    keys |= config.weight_columns
    keys |= {
        config.group: "ranking.group",
        config.item: "ranking.item",
        time: "data.time_column",
    }
    used = {name: key for name, key in keys.items() if name is not None}
    for name, key in used.items():
        if name not in reader.schema.names:
            place, names = reader.place(0).path if len(reader.block_rows) else str(day), reader.schema.names
            near = uri.nearest(name, names)
            raise ValueError(f"{place}: no column {name!r}, which {key} names (there are: {', '.join(names)}){near}")
    num_positives = 0
    for block, table in enumerate(blocks(reader, [*used])):
        place = reader.place(block)
        num_positives += positives(place, table, config)
        if time is not None:
            with naming(place):
                holdout.of_day(table.column(time), time, day)
    return num_positives
