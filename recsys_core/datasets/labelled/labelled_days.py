"""Labelled rows by day, which a model is retrained on daily.

    SOURCE/ds=YYYY-MM-DD/   a local folder with a partition for each day, in files of Parquet, ORC or CSV; or
    s3://…/dt={day}/        a path in which {day} stands for each day, as YYYY-MM-DD or YYYYMMDD;
    odps://PROJECT/tables/TABLE/ds={day}

Days in Parquet files of a local folder are read in place. All others are copied to Parquet once each, and again when
they have changed; only days that a run needs are.
"""

import datetime
import posixpath
import re
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Literal

import fsspec
from pydantic import Field, field_validator

from recsys_core import folders, readers, uri
from recsys_core.artifacts import digest_of
from recsys_core.datasets import base
from recsys_core.odps.path import SCHEME

_DAY = "{day}"
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}|\d{8}")
_WRITE = "write days as YYYY-MM-DD or YYYYMMDD"
_WILD = re.compile(r"[*?\[\],]")


class Config(base.Config):
    """`source` is a local folder of partitions `ds=YYYY-MM-DD`, or a path with `{day}`."""

    in_place: ClassVar[bool] = True

    kind: Literal["labelled_days"] = "labelled_days"
    source: str
    time_column: str | None = Field(
        default=None,
        description="a time of each row, which must lie in its day in UTC; a holdout of kind tail needs it",
    )
    csv: readers.CsvOptions = Field(default=readers.CsvOptions(), description="how files of CSV are written")

    @field_validator("source")
    @classmethod
    def _by_day(cls, source: str) -> str:
        if source.startswith(SCHEME) and not re.search(r"/\w+=\{day\}$", source):
            raise ValueError(
                f"{source}: name the partition that is the day's at its end, as in …/tables/TABLE/ds={_DAY}"
            )
        if source.count(_DAY) > 1:
            raise ValueError(f"{source}: {_DAY} stands there more than once; leave it where the day's folder is named")
        if uri.is_remote(source) and _DAY not in source:
            raise ValueError(f"{source}: write {_DAY} where the day stands, as in s3://BUCKET/TABLE/dt={_DAY}/")
        if _DAY in source and _WILD.search(source.partition(_DAY)[0]):
            raise ValueError(f"{source}: before {_DAY} no wildcard or comma can stand; name one folder")
        return source

    @property
    def root(self) -> Path | None:
        """The local folder whose partitions may be read in place; None: the source is a path with `{day}`."""
        return None if _DAY in self.source else uri.local(self.source)


def days(config: Config, first: datetime.date, last: datetime.date) -> dict[datetime.date, readers.Part]:
    """Return the rows of each day from `first` to `last` that there are; of files only names and times are asked for.

    Raises:
        ValueError: the source cannot be reached, or has something in the place of a day that is none; it is named.
    """

    def wanted(text: str) -> bool:
        return first <= _day(config, text) <= last

    if config.source.startswith(SCHEME):
        table, _, key = config.source.removesuffix(f"={_DAY}").rpartition("/")
        parts = readers.parts(table, key, wanted)
        if parts is None:
            raise ValueError(f"{config.source}: the table is not partitioned by {key}; name its key of days")
    else:
        parts = _of_files(config, wanted)
    found: dict[datetime.date, readers.Part] = {}
    for text, part in parts.items():
        if (day := _day(config, text)) in found:
            raise ValueError(f"{config.source}: two partitions are of {day}; remove one of them")
        found[day] = part
    return dict(sorted(found.items()))


def _of_files(config: Config, wanted: Callable[[str], bool]) -> dict[str, readers.Part]:
    """Return the files of each wanted day by the day as it is written; a folder of the user's may have none."""
    found: dict[str, readers.Part] = {}
    if (root := config.root) is not None:
        if not root.is_dir():
            raise ValueError(f"{config.source}: no folder; it holds a folder ds=YYYY-MM-DD for each day")
        for folder in folders.subfolders(root):
            if not folder.is_dir() or not folder.name.startswith("ds="):
                raise ValueError(f"{folder}: not a day's partition; name it ds=YYYY-MM-DD or move it out of the source")
            if wanted(text := folder.name.removeprefix("ds=")):
                locations = uri.resolve(folder) if folders.local_files(folder) else []
                found[text] = readers.Part(folder, uri.fingerprint(locations))
        return found
    before, _, after = config.source.partition(_DAY)
    segment, slash, rest = after.partition("/")
    try:
        filesystem, path = fsspec.core.url_to_fs(before if uri.is_remote(before) else str(uri.local(before)))
        # Stores keep listings for the life of a process, and a day may have been written again since.
        filesystem.invalidate_cache()
        parent, name = posixpath.split(path if before and not before.endswith("/") else f"{path.rstrip('/')}/")
        entries = sorted(map(str, filesystem.ls(parent, detail=False))) if filesystem.isdir(parent) else []
    except (ValueError, ImportError, OSError) as error:
        raise ValueError(f"{config.source}: cannot be listed ({folders.reason(error)})") from None
    for entry in map(posixpath.basename, (entry.rstrip("/") for entry in entries)):
        inner = entry.removeprefix(name).removesuffix(segment)
        if folders.is_hidden(entry) or entry != f"{name}{inner}{segment}" or not wanted(inner):
            continue
        locations = uri.resolve(f"{before}{inner}{segment}{slash}{rest}".rstrip("/"))
        found[inner] = readers.Part(tuple(map(uri.address, locations)), uri.fingerprint(locations))
    return found


def _day(config: Config, text: str) -> datetime.date:
    """Return the day that a folder or a partition's value names."""
    try:
        if _DATE.fullmatch(text):
            return datetime.date.fromisoformat(text)
    except ValueError:
        pass
    raise ValueError(f"{config.source}: {text!r} stands in the place of a day; {_WRITE}, or move it out of the source")


def fingerprint(parts: dict[datetime.date, readers.Part]) -> str:
    """Return a digest that changes when one of these days does."""
    return digest_of({str(day): part.fingerprint for day, part in parts.items()})
