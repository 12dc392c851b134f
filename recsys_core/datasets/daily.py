"""A log that already lies in the daily layout; it is read in place.

    SOURCE/interactions/ds=YYYY-MM-DD/*.parquet   user_id, item_id (int64 or string), timestamp (int64, Unix seconds)
    SOURCE/users/ds=YYYY-MM-DD/*.parquet          user_id and fields, of users who are new or changed that day
    SOURCE/items/ds=YYYY-MM-DD/*.parquet          item_id and fields, of items that are new or changed that day

Days are UTC. The table of users or items as of a day has the last row of each id in the partitions up to that day.
Whoever acts, and whatever is acted on, is known by that day. A partition may be absent from users and items.
"""

import datetime
from pathlib import Path
from typing import ClassVar, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from recsys_core import uri
from recsys_core.artifacts import digest_of
from recsys_core.datasets import base

TABLES = ("interactions", "users", "items")
_A_DAY = datetime.timedelta(days=1)


class Config(base.Config):
    """`source`: the folder that holds interactions/, users/ and items/."""

    in_place: ClassVar[bool] = True

    kind: Literal["daily"] = "daily"
    source: str


def partitions(root: Path, table: str) -> dict[datetime.date, list[Path]]:
    """Return the Parquet files of each day of `table`, in the order of days; a day may have none.

    Raises:
        ValueError: no such folder, or a folder in it that is not named as a day.
    """
    if not (root / table).is_dir():
        raise ValueError(
            f"{root}: has no folder {table!r}; a log holds {', '.join(TABLES)}, each by day "
            "(`dayline data import` makes one of other sources)"
        )
    days = {}
    for folder in sorted((root / table).iterdir()):
        if folder.name.startswith((".", "_")):
            continue
        try:
            day = datetime.date.fromisoformat(folder.name.removeprefix("ds="))
        except ValueError:
            day = None
        if day is None or folder.name != base.partition(day):
            raise ValueError(f"{folder}: not a day's partition; name it ds=YYYY-MM-DD or move it out of the log")
        days[day] = sorted(path for path in folder.glob("*.parquet") if not path.name.startswith((".", "_")))
    return days


def fingerprint(root: Path, day: datetime.date) -> str:
    """Return a digest of what a run for `day` reads: names, sizes and times of the partitions up to the day after."""
    files = LocalFileSystem()
    return digest_of(
        [
            uri.fingerprint(
                [
                    uri.Location(files, str(path), {"ds": at.isoformat()})
                    for at, paths in partitions(root, table).items()
                    if at <= day + _A_DAY
                    for path in paths
                ]
            )
            for table in TABLES
        ]
    )


def last_day(root: Path) -> datetime.date:
    """Return the last day that has interactions and is followed by one that has.

    Raises:
        ValueError: there is none.
    """
    days = partitions(root, "interactions")
    for day in reversed(days):
        if day + _A_DAY in days and num_rows(days[day + _A_DAY]) and num_rows(days[day]):
            return day
    raise ValueError(f"{root}: interactions has no two days in a row, and a run needs a day and the one after it")


def require_day(root: Path, day: datetime.date) -> None:
    """Refuse `day` unless it and the day after have interactions.

    Raises:
        ValueError: says which of the two is missing or empty, what there is near it, and what to do.
    """
    days = partitions(root, "interactions")
    if not days:
        raise ValueError(f"{root}: interactions has no partitions; is the log complete?")
    runnable = [at for at in days if at + _A_DAY in days]
    near = sorted(sorted(runnable, key=lambda at: abs(at - day))[:2])
    nearest = f"the nearest that can be run: {' and '.join(map(str, near))}" if near else "and no other day can be run"
    for needed, role in ((day, "the day itself"), (day + _A_DAY, f"the ground truth of {day}")):
        if needed not in days:
            raise ValueError(
                f"{root}: no interactions for {needed} ({role}); "
                f"the log has {len(days)} days from {min(days)} to {max(days)}; {nearest}"
            )
        if not num_rows(days[needed]):
            raise ValueError(
                f"{root}: the interactions of {needed} ({role}) are empty, "
                f"{len(days[needed])} files without a row; write the partition again; {nearest}"
            )


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
        raise ValueError(f"{path}: cannot be read as Parquet ({error}); write the partition again") from None
