"""The data contract: what each column of the log is agreed to be, and what a day may look like beside the last ones.

Every partition is read once in its life; what is remembered of it is a few kilobytes, and 170 more for sampled ids.
"""

import datetime
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, PositiveInt

from recsys_core import artifacts
from recsys_core.artifacts import DataCheck, Dataset, FileRecord, LabelledLog, Measurement
from recsys_core.contract import checks, tables
from recsys_core.contract.report import summary
from recsys_core.contract.statistics import PartitionStatistics, of_labelled_day, of_partition
from recsys_core.datasets.base import day_after, days_before, partition
from recsys_core.progress import Event, Sink

_STAGE = "check"
ROWS = "rows"
"""What labelled rows are called in a contract's file and in messages."""
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
    """Return the first day to be checked, of a run that continues `base_day`'s release or learns from a window.

    What was absorbed is checked as the run's own day.
    """
    first = datetime.date.min
    if base_day is not None:
        first = min(day, day_after(base_day))
    elif window_days is not None:
        first = days_before(day, window_days - 1)
    return first if config.num_days is None else max(first, days_before(day, config.num_days - 1))


def agreed(config: Config) -> tables.Tables | None:
    """Return the contract that the config names.

    Raises:
        ValueError: it cannot be read.
    """
    return tables.read(config.file) if config.file is not None else None


class LabelledRequest(artifacts.Request):
    """As `Request`, of labelled rows: `labels` are their columns of labels, `time_column` that of times, if any.

    Whole numbers in `categories` are names, as features that take them for ids say.
    """

    UNKEYED: ClassVar[frozenset[str]] = artifacts.Request.UNKEYED | {"memory"}

    config: checks.Limits
    agreed: tables.Tables | None
    log: LabelledLog
    labels: tuple[str, ...]
    time_column: str | None
    categories: tuple[str, ...]
    first_day: datetime.date
    day: datetime.date
    memory: Path


class _Table(NamedTuple):
    """A table whose days are checked.

    `tags` say what its columns are, `statistics` reads a day, and `due` says whether a day has to have rows.
    """

    name: str
    tags: dict[str, tuple[str, ...]]
    statistics: Callable[[datetime.date], PartitionStatistics]
    due: Callable[[datetime.date], bool]


def run(request: Request, sink: Sink) -> DataCheck:
    """Check the days `first_day` to `day`; a breach is in the record, and `enforce` refuses what must not go on.

    Raises:
        ValueError: the contract names a table that the log has not, or a file cannot be read.
    """
    dataset, memory = request.dataset, request.memory
    agreed_tables = _agreed_tables(request, dataset.columns)
    # Users and items may stand in the log from any day on, such as 1970-01-01; days count from when the first acted.
    begin = min((count.day for count in dataset.days if count.num_interactions), default=request.day)
    files = _files(dataset)
    checked: list[_Table] = []
    for table in dataset.columns:
        tags = _tags(_KNOWN.get(table, {}), agreed_tables.get(table), _TIME.get(table, {}))
        # The tables of users and items hold the new and changed rows of a day: that few ids were known means nothing.
        sampled = _sampled(tags) if table == "interactions" else []

        def statistics(day: datetime.date, table: str = table, ids: list[str] = sampled) -> PartitionStatistics:
            return of_partition(dataset.root, table, files.get((table, day), []), ids, memory, sink)

        def due(day: datetime.date, table: str = table) -> bool:
            return (table, day) in files or (table == "interactions" and day >= begin)

        checked.append(_Table(table, tags, statistics, due))
    return _checked(request, checked, [count.day for count in dataset.days], "interactions", begin, sink)


def run_labelled(request: LabelledRequest, sink: Sink) -> DataCheck:
    """Check labelled rows by day, as `run` does; they are one table, `rows`.

    Raises:
        ValueError: the contract names another table, or a file cannot be read.
    """
    log = request.log
    agreed_columns = _agreed_tables(request, (ROWS,)).get(ROWS)
    times = {request.time_column: ("time",)} if request.time_column is not None else {}
    tags = _tags(dict.fromkeys(request.labels, ("label",)), agreed_columns, times)
    folders, ids = {one.day: one.folder for one in log.days}, _sampled(tags)

    def statistics(day: datetime.date) -> PartitionStatistics:
        return of_labelled_day(folders[day], log.files_of(day), ids, request.categories, request.memory, sink)

    table = _Table(ROWS, tags, statistics, lambda _: True)
    return _checked(request, [table], list(folders), ROWS, min(folders), sink)


def _agreed_tables(request: Request | LabelledRequest, known: Iterable[str]) -> dict[str, dict[str, tables.Column]]:
    agreed_tables = request.agreed.tables if request.agreed else {}
    for name in agreed_tables:
        if name not in known:
            raise ValueError(f"contract: the log has no table {name!r}, only {', '.join(known)}; rename it")
    return agreed_tables


def _checked(
    request: Request | LabelledRequest,
    checked: Sequence[_Table],
    there: Sequence[datetime.date],
    gapless: str,
    begin: datetime.date,
    sink: Sink,
) -> DataCheck:
    """Measure the tables' days of those that are `there`; from `begin` on `gapless` has to have each."""
    limits = request.config
    days = [day for day in there if day <= request.day]
    first = max(request.first_day, days[0])
    wanted = [day for day in days if day >= first]
    earlier = [day for day in days if day < first][-limits.reference_days :]
    agreed_tables = request.agreed.tables if request.agreed else {}
    found: list[Measurement] = []
    for table in checked:
        before: list[tuple[datetime.date, PartitionStatistics]] = []
        for number, day in enumerate([*earlier, *wanted]):
            sink(Event(stage=_STAGE, done=number, total=len(earlier) + len(wanted), unit="days", message=table.name))
            statistics = table.statistics(day)
            if day >= first and table.due(day):
                subject = checks.Subject(day, table.name, statistics, before, agreed_tables.get(table.name), table.tags)
                found += checks.measure(limits, subject)
            if statistics.rows:
                before = [*before, (day, statistics)][-limits.reference_days :]
    found += _gaps(limits, there, gapless, max(first, begin), request.day)
    return _committed(request, first, found)


def enforce(check: DataCheck) -> None:
    """Refuse to go on if a breach says stop.

    Raises:
        ValueError: one line for each such breach: day, table, column, figure, limit and what to do.
    """
    stops = [breach.message for breach in check.breaches if breach.stops]
    if stops:
        raise ValueError("\n".join([*stops, f"  nothing was trained; the whole report: {check.report}"]))


def _committed(request: Request | LabelledRequest, first: datetime.date, found: list[Measurement]) -> DataCheck:
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


def _gaps(
    limits: checks.Limits, there: Collection[datetime.date], table: str, first: datetime.date, last: datetime.date
) -> Iterator[Measurement]:
    """Yield a breach for each day that is not there at all."""
    for number in range((last - first).days):
        day = first + number * _A_DAY
        if day not in there:
            subject = checks.Subject(day, table, PartitionStatistics(rows=0, columns={}), [], None, {})
            yield from checks.measure(limits, subject)


def _tags(
    known: Mapping[str, tuple[str, ...]],
    columns: Mapping[str, tables.Column] | None,
    fixed: Mapping[str, tuple[str, ...]],
) -> dict[str, tuple[str, ...]]:
    """Return what the columns are: as `known`, as the contract's `columns` say, and as `fixed` whatever they say."""
    named = {name: column.tags for name, column in (columns or {}).items()}
    return {**known, **named, **fixed}


def _sampled(tags: Mapping[str, tuple[str, ...]]) -> list[str]:
    return [name for name, words in tags.items() if "id" in words and {"user", "item"} & set(words)]
