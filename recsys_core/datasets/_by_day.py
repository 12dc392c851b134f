"""Where the rows of a day are: a path in which `{day}` stands for each day, or a local folder of partitions."""

import datetime
import posixpath
import re
from collections.abc import Callable

import fsspec

from recsys_core import folders, readers, uri
from recsys_core.artifacts import digest_of
from recsys_core.odps.path import SCHEME

DAY = "{day}"
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}|\d{8}")
_WRITE = "write days as YYYY-MM-DD or YYYYMMDD"
_WILD = re.compile(r"[*?\[\],]")


def require(source: str) -> str:
    """Return a path in which `{day}` stands for each day.

    Raises:
        ValueError: it does not stand where the days of such a source can be found.
    """
    if source.startswith(SCHEME) and not re.search(r"/\w+=\{day\}$", source):
        raise ValueError(f"{source}: name the partition that is the day's at its end, as in …/tables/TABLE/ds={DAY}")
    if source.count(DAY) > 1:
        raise ValueError(f"{source}: {DAY} stands there more than once; leave it where the day's folder is named")
    if uri.is_remote(source) and DAY not in source:
        raise ValueError(f"{source}: write {DAY} where the day stands, as in s3://BUCKET/TABLE/dt={DAY}/")
    if DAY in source and _WILD.search(source.partition(DAY)[0]):
        raise ValueError(f"{source}: before {DAY} no wildcard or comma can stand; name one folder")
    return source


def days(
    source: str, first: datetime.date, last: datetime.date, *, of_any_format: bool = False
) -> dict[datetime.date, readers.Part]:
    """Return the rows of each day from `first` to `last` that there are; of files only names and times are asked for.

    A source without `{day}` is a local folder of partitions `ds=YYYY-MM-DD`. `of_any_format`: a file may be no table.

    Raises:
        ValueError: the source cannot be reached, or has something in the place of a day that is none; it is named.
    """

    def wanted(text: str) -> bool:
        return first <= _day(source, text) <= last

    if source.startswith(SCHEME):
        table, _, key = source.removesuffix(f"={DAY}").rpartition("/")
        parts = readers.parts(table, key, wanted)
        if parts is None:
            raise ValueError(f"{source}: the table is not partitioned by {key}; name its key of days")
    elif DAY in source:
        parts = _of_pattern(source, wanted, of_any_format=of_any_format)
    else:
        parts = _of_folder(source, wanted)
    found: dict[datetime.date, readers.Part] = {}
    for text, part in parts.items():
        if (day := _day(source, text)) in found:
            raise ValueError(f"{source}: two partitions are of {day}; remove one of them")
        found[day] = part
    return dict(sorted(found.items()))


def fingerprint(parts: dict[datetime.date, readers.Part]) -> str:
    """Return a digest that changes when one of these days does."""
    return digest_of({str(day): part.fingerprint for day, part in parts.items()})


def _of_folder(source: str, wanted: Callable[[str], bool]) -> dict[str, readers.Part]:
    """Return the files of each wanted day by the day as it is written; a folder of the user's may have none."""
    found: dict[str, readers.Part] = {}
    root = uri.local(source)
    if not root.is_dir():
        raise ValueError(f"{source}: no folder; it holds a folder ds=YYYY-MM-DD for each day")
    for folder in folders.subfolders(root):
        if not folder.is_dir() or not folder.name.startswith("ds="):
            raise ValueError(f"{folder}: not a day's partition; name it ds=YYYY-MM-DD or move it out of the source")
        if wanted(text := folder.name.removeprefix("ds=")):
            locations = uri.resolve(folder) if folders.local_files(folder) else []
            found[text] = readers.Part(folder, uri.fingerprint(locations))
    return found


def _of_pattern(source: str, wanted: Callable[[str], bool], *, of_any_format: bool) -> dict[str, readers.Part]:
    found: dict[str, readers.Part] = {}
    before, _, after = source.partition(DAY)
    segment, slash, rest = after.partition("/")
    try:
        filesystem, path = fsspec.core.url_to_fs(before if uri.is_remote(before) else str(uri.local(before)))
        # Stores keep listings for the life of a process, and a day may have been written again since.
        filesystem.invalidate_cache()
        parent, name = posixpath.split(path if before and not before.endswith("/") else f"{path.rstrip('/')}/")
        entries = sorted(map(str, filesystem.ls(parent, detail=False))) if filesystem.isdir(parent) else []
    except (ValueError, ImportError, OSError) as error:
        raise ValueError(f"{source}: cannot be listed ({folders.reason(error)})") from None
    for entry in map(posixpath.basename, (entry.rstrip("/") for entry in entries)):
        inner = entry.removeprefix(name).removesuffix(segment)
        if folders.is_hidden(entry) or entry != f"{name}{inner}{segment}" or not wanted(inner):
            continue
        place = f"{before}{inner}{segment}{slash}{rest}".rstrip("/")
        locations = uri.resolve(place, of_any_format=of_any_format)
        found[inner] = readers.Part(tuple(map(uri.address, locations)), uri.fingerprint(locations))
    return found


def _day(source: str, text: str) -> datetime.date:
    """Return the day that a folder or a partition's value names."""
    try:
        if _DATE.fullmatch(text):
            return datetime.date.fromisoformat(text)
    except ValueError:
        pass
    raise ValueError(f"{source}: {text!r} stands in the place of a day; {_WRITE}, or move it out of the source")
