"""A log that already lies in the daily layout; it is read in place.

    SOURCE/interactions/ds=YYYY-MM-DD/   user_id, item_id (int64 or string), timestamp (int64, Unix seconds)
    SOURCE/users/ds=YYYY-MM-DD/          user_id and fields, of users who are new or changed that day
    SOURCE/items/ds=YYYY-MM-DD/          item_id and fields, of items that are new or changed that day

A day's rows are in Parquet files, in subfolders too, see `folders`; subfolders `key=value` are columns of text. Days
are UTC. The table of users or items as of a day has the last row of each id in the partitions up to that day.
The user and the item of an interaction are known by that day. A partition may be absent from users and items.
"""

import datetime
import posixpath
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from recsys_core import folders, uri
from recsys_core.artifacts import Dataset, DayCount, digest_of
from recsys_core.datasets import base

TABLES = ("interactions", "users", "items")


class Config(base.Config):
    """`source`: the folder that holds interactions/, users/ and items/."""

    in_place: ClassVar[bool] = True

    kind: Literal["daily"] = "daily"
    source: str


def partitions(root: Path, table: str) -> dict[datetime.date, list[Path]]:
    """Return the Parquet files of each day of `table`, in the order of days; a day may have none.

    Raises:
        ValueError: no such folder, or something in it that is not a day's folder of Parquet files.
    """
    if not (root / table).is_dir():
        raise ValueError(
            f"{root}: has no folder {table!r}; a log holds {', '.join(TABLES)}, each by day "
            "(`dayline data import` makes one of other sources)"
        )
    days = {}
    for folder in folders.subfolders(root / table):
        try:
            day = datetime.date.fromisoformat(folder.name.removeprefix("ds="))
        except ValueError:
            day = None
        if day is None or folder.name != base.partition(day) or not folder.is_dir():
            raise ValueError(f"{folder}: not a day's partition; name it ds=YYYY-MM-DD or move it out of the log")
        days[day] = folders.local_files(folder)
        for path in days[day]:
            if folders.format_of(LocalFileSystem(), str(path)) != "parquet":
                raise ValueError(
                    f"{path}: a log in the daily layout is Parquet; write it as that, or import it with "
                    "`dayline data import tables`"
                )
    return days


def folder_columns(root: Path, path: Path) -> dict[str, str | None]:
    """Return the columns that the folders of a file below the day's give, such as `hour` of `hour=13`."""
    return uri.partitions(posixpath.join(*path.relative_to(root).parts[2:]))


def schema(root: Path, path: Path) -> pa.Schema:
    """Return the schema of a file, with a column of text for each that its folders give.

    Raises:
        ValueError: see `opened`.
    """
    found: pa.Schema = opened(path).schema_arrow
    for name in folder_columns(root, path):
        if name not in found.names:
            found = found.append(pa.field(name, pa.string()))
    return found


def completed(root: Path, path: Path, table: pa.Table, columns: Sequence[str]) -> pa.Table:
    """Return `table`, read from `path`, with exactly `columns`, those included that its folders give."""
    values = folder_columns(root, path)
    for name in columns:
        if name in values and name not in table.column_names:
            table = table.append_column(name, pa.repeat(pa.scalar(values[name], pa.string()), table.num_rows))
    return table.select(list(columns))


def fingerprint(root: Path, day: datetime.date, last: datetime.date | None = None) -> str:
    """Return a digest of what a run for `day` reads: names, sizes and times of the partitions up to `last`.

    null: up to the day after.
    """
    files, last = LocalFileSystem(), last or base.day_after(day)
    return digest_of(
        [
            uri.fingerprint(
                [
                    uri.Location(files, str(path), uri.partitions(str(path.relative_to(root))))
                    for at, paths in partitions(root, table).items()
                    if at <= last
                    for path in paths
                ]
            )
            for table in TABLES
        ]
    )


def last_day(
    root: Path, until: datetime.date = datetime.date.max, place: str | None = None, *, alone: bool = False
) -> datetime.date:
    """Return the last day that has interactions and is followed by one that has, which is `until` at the latest.

    `place` is what the log is called in messages, by default `root`. `alone`: the day after is not needed.

    Raises:
        ValueError: there is none.
    """
    days = partitions(root, "interactions")
    for day in reversed(days):
        if alone and day <= until and num_rows(days[day]):
            return day
        following = days.get(base.day_after(day), []) if day < until else []
        if num_rows(following) and num_rows(days[day]):
            return day
    if alone:
        raise ValueError(f"{place or root}: interactions has no day with rows; is the log complete?")
    raise ValueError(
        f"{place or root}: interactions has no two days in a row, and a run needs a day and the one after it"
    )


def require_day(root: Path, day: datetime.date, place: str | None = None, *, last: datetime.date | None = None) -> None:
    """Refuse `day` unless it and the day after have interactions; with `day` as `last` only it needs to have them.

    `place` is what the log is called in messages, by default `root`.

    Raises:
        ValueError: says which of the two is missing or empty, what there is near it, and what to do.
    """
    days = partitions(root, "interactions")
    if not days:
        raise ValueError(f"{place or root}: interactions has no partitions; is the log complete?")
    runnable = [at for at in days if last == day or (at < datetime.date.max and base.day_after(at) in days)]
    near = sorted(sorted(runnable, key=lambda at: abs(at - day))[:2])
    nearest = f"the nearest that can be run: {' and '.join(map(str, near))}" if near else "and no other day can be run"
    truth = [] if last == day else [(base.day_after(day), f"the ground truth of {day}")]
    for needed, role in ((day, "the day itself"), *truth):
        if needed not in days:
            raise ValueError(
                f"{place or root}: no interactions for {needed} ({role}); "
                f"the log has {len(days)} days from {min(days)} to {max(days)}; {nearest}"
            )
        if not num_rows(days[needed]):
            raise ValueError(
                f"{place or root}: the interactions of {needed} ({role}) are empty, "
                f"{len(days[needed])} files without a row; write the partition again; {nearest}"
            )


def require_rows(dataset: Dataset, table: str, count: DayCount, num_rows: int) -> None:
    """Refuse a day of which a stage has read other rows than ingest counted.

    Raises:
        ValueError: says where, and both numbers.
    """
    if num_rows != rows_of(count, table):
        raise ValueError(
            f"{dataset.root / table / base.partition(count.day)}: {num_rows} rows where ingest counted "
            f"{rows_of(count, table)}; the log has changed since, so run again"
        )


def rows_of(count: DayCount, table: str) -> int:
    """Return the rows of one table of a day."""
    return {"interactions": count.num_interactions, "users": count.num_users, "items": count.num_items}[table]


def num_rows(paths: list[Path]) -> int:
    """Return the rows of `paths` by their footers."""
    return sum(opened(path).metadata.num_rows for path in paths)


def opened(path: Path) -> pq.ParquetFile:
    """Open a Parquet file.

    Raises:
        ValueError: it is not one, or it is damaged.
    """
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(
            f"{path}: cannot be read as Parquet ({folders.reason(error)}); write the partition again"
        ) from None
