"""The data contract: what each column of the log is agreed to be, and what a day may look like beside the last ones.

Every partition is read once in its life; what is remembered of it is a few kilobytes, and 170 more for sampled ids.
"""

import datetime
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, PositiveInt

from recsys_core import artifacts
from recsys_core.artifacts import DataCheck, Dataset, FileRecord, Measurement
from recsys_core.contract import checks, tables
from recsys_core.contract.report import summary
from recsys_core.contract.statistics import PartitionStatistics, of_partition
from recsys_core.datasets.base import day_after, days_before, partition
from recsys_core.progress import Event, Sink

_STAGE = "check"
_A_DAY = datetime.timedelta(days=1)
# Of a log in the daily layout so much is known without a contract.
_TIME = {"interactions": {"timestamp": ("time",)}}
_KNOWN = {
    "interactions": {"user_id": ("user", "id"), "item_id": ("item", "id")},
    "users": {"user_id": ("id",)},
    "items": {"item_id": ("id",)},
}
_SCHEMA = pa.schema(
    [
        ("day", pa.date32()),
        ("table", pa.string()),
        ("column", pa.string()),
        ("check", pa.string()),
        ("figure", pa.float64()),
        ("limit", pa.float64()),
        ("held", pa.bool_()),
        ("stops", pa.bool_()),
        ("message", pa.string()),
    ]
)


class Config(checks.Limits):
    """YAML section `contract`. `file` is what `dayline data profile --schema` writes; without one, only days compare.

    A breach stops the run before anything is trained if its check says `on_breach: stop`; else it is a warning.
    """

    file: Path | None = None
    num_days: PositiveInt | None = Field(
        default=None, description="how many of the last days are checked; null: all that the run learns from"
    )


class Request(artifacts.Request):
    """`agreed` is the contract's content, `first_day` the first that the run learns from; `memory` is not an input."""

    UNKEYED: ClassVar[frozenset[str]] = artifacts.Request.UNKEYED | {"memory"}

    config: checks.Limits
    agreed: tables.Tables | None
    dataset: Dataset
    first_day: datetime.date
    day: datetime.date
    memory: Path


def first_day(
    config: Config, day: datetime.date, base_day: datetime.date | None, window_days: int | None
) -> datetime.date:
    """Return the first day to be checked, of a run that continues `base_day`'s release or learns from a window."""
    first = datetime.date.min
    if base_day is not None:
        first = day_after(base_day)
    elif window_days is not None:
        first = days_before(day, window_days - 1)
    return first if config.num_days is None else max(first, days_before(day, config.num_days - 1))


def agreed(config: Config) -> tables.Tables | None:
    """Return the contract that the config names.

    Raises:
        ValueError: it cannot be read.
    """
    return tables.read(config.file) if config.file is not None else None


def run(request: Request, sink: Sink) -> DataCheck:
    """Check the days `first_day` to `day`; a breach is in the record, and `enforce` refuses what must not go on.

    Raises:
        ValueError: the contract names a table that the log has not, or a file cannot be read.
    """
    dataset, limits = request.dataset, request.config
    days = [count.day for count in dataset.days if count.day <= request.day]
    first = max(request.first_day, days[0])
    wanted = [day for day in days if day >= first]
    earlier = [day for day in days if day < first][-limits.reference_days :]
    agreed_tables = request.agreed.tables if request.agreed else {}
    for name in agreed_tables:
        if name not in dataset.columns:
            raise ValueError(f"contract: the log has no table {name!r}, only {', '.join(dataset.columns)}; rename it")
    # Users and items may stand in the log from any day on, such as 1970-01-01; days count from when the first acted.
    begin = min((count.day for count in dataset.days if count.num_interactions), default=first)
    found: list[Measurement] = []
    files = _files(dataset)
    for table in dataset.columns:
        tags = _tags(table, agreed_tables.get(table))
        # The tables of users and items hold the new and changed rows of a day: that few ids were known means nothing.
        acting = tags.items() if table == "interactions" else ()
        sampled = [name for name, words in acting if "id" in words and {"user", "item"} & set(words)]
        before: list[tuple[datetime.date, PartitionStatistics]] = []
        for number, day in enumerate([*earlier, *wanted]):
            sink(Event(stage=_STAGE, done=number, total=len(earlier) + len(wanted), unit="days", message=table))
            records = files.get((table, day), [])
            statistics = of_partition(dataset.root, table, records, sampled, request.memory, sink)
            if day >= first and (records or (table == "interactions" and day >= begin)):
                subject = checks.Subject(day, table, statistics, before, agreed_tables.get(table), tags)
                found += checks.measure(limits, subject)
            if statistics.rows:
                before = [*before, (day, statistics)][-limits.reference_days :]
    found += _gaps(limits, dataset, max(first, begin), request.day)
    return _committed(request, first, found)


def enforce(check: DataCheck) -> None:
    """Refuse to go on if a breach says stop.

    Raises:
        ValueError: one line for each such breach: day, table, column, figure, limit and what to do.
    """
    stops = [breach.message for breach in check.breaches if breach.stops]
    if stops:
        raise ValueError("\n".join([*stops, f"  nothing was trained; the whole report: {check.report}"]))


def _committed(request: Request, first: datetime.date, found: list[Measurement]) -> DataCheck:
    breaches = tuple(measurement for measurement in found if not measurement.held)
    with artifacts.pending(request.output) as aside:
        rows = [measurement.model_dump() for measurement in found]
        pq.write_table(pa.Table.from_pylist(rows, _SCHEMA), aside.path / "measurements.parquet", compression="zstd")
        artifacts.write_text(aside.path / "report.md", summary(request.day, first, found))
        return aside.commit(
            DataCheck, request, num_rows=len(found), day=request.day, first_day=first, breaches=breaches
        )


def _files(dataset: Dataset) -> dict[tuple[str, datetime.date], list[FileRecord]]:
    """Return the files of each table's partitions, as ingest has recorded them."""
    found: dict[tuple[str, datetime.date], list[FileRecord]] = {}
    days = {partition(count.day): count.day for count in dataset.days}
    for fields in json.loads((dataset.path / "files.json").read_text()):
        record = FileRecord.model_validate(fields)
        table, folder, _ = record.path.split("/", 2)
        found.setdefault((table, days[folder]), []).append(record)
    return found


def _gaps(limits: checks.Limits, dataset: Dataset, first: datetime.date, last: datetime.date) -> Iterator[Measurement]:
    """Yield a breach for each day that the log's tables do not know at all."""
    there = {count.day for count in dataset.days}
    for number in range((last - first).days):
        day = first + number * _A_DAY
        if day not in there:
            subject = checks.Subject(day, "interactions", PartitionStatistics(rows=0, columns={}), [], None, {})
            yield from checks.measure(limits, subject)


def _tags(table: str, columns: Mapping[str, tables.Column] | None) -> dict[str, tuple[str, ...]]:
    named = {name: column.tags for name, column in (columns or {}).items()}
    return {**_KNOWN.get(table, {}), **named, **_TIME.get(table, {})}
