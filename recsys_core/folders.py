"""Which files belong to a folder of data: one rule for every reader.

Every regular file below it, in whatever subfolder, but what other programs mark as theirs: names that begin with `.` or
`_`, checksums (`.crc`) and the folder markers of object stores. A file is of the format that its suffix names, in
whatever spelling; one without a suffix, as Hive and MaxCompute write them, of the one that its first bytes identify.
Anything else is refused by name: a file that is skipped is rows that are missing.
"""

import os
import posixpath
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import fsspec
from fsspec.implementations.local import LocalFileSystem

FORMATS = {
    ".parquet": "parquet",
    ".parq": "parquet",
    ".pq": "parquet",
    ".orc": "orc",
    ".csv": "csv",
    ".tsv": "csv",
    ".csv.gz": "csv",
    ".tsv.gz": "csv",
}
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_MAGIC = {b"PAR1": "parquet", b"ORC": "orc"}
# Their folders keep files of older versions of the table, which only their own log distinguishes from the present one.
_VERSIONED = {"_delta_log": "Delta", ".hoodie": "Hudi"}


PARTIAL = "_partial.json"
"""What stands in a folder of an object store, which renames nothing, until a command of ours has written all of it."""


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is another program's own: temporary, or a marker."""
    if name in (".", ".."):
        return False
    return name.startswith((".", "_")) or name.lower().endswith(".crc") or name.endswith("_$folder$")


def local_files(folder: Path) -> list[Path]:
    """Return the files of a folder of this machine, sorted by path; see `files`."""
    return [Path(path) for path in files(LocalFileSystem(), str(folder))]


def subfolders(folder: Path) -> list[Path]:
    """Return what is in a folder of this machine that should have nothing but folders of data, sorted by name.

    Raises:
        ValueError: the folder cannot be listed.
    """
    return [Path(entry.path) for entry in _entries(str(folder)) if not is_hidden(entry.name)]


def files(filesystem: fsspec.AbstractFileSystem, folder: str, *, of_any_format: bool = False) -> list[str]:
    """Return the paths of the files that belong to `folder`, sorted; `of_any_format`: also those that are no table's.

    Raises:
        ValueError: something below is not understood, is no file that can be read, or is there twice; it is named.
    """
    local = isinstance(filesystem, LocalFileSystem)
    found = sorted(_Walk().files(folder) if local else _remote(filesystem, folder))
    if not of_any_format:
        for path in found:
            _refuse_unknown(filesystem, path)
    return found


def format_by_name(path: str) -> str | None:
    """Return the format that a path's suffix names, None if it names none."""
    return next((FORMATS[end] for end in FORMATS if path.lower().endswith(end)), None)


def format_of(filesystem: fsspec.AbstractFileSystem, path: str) -> str | None:
    """Return the format of a file by its suffix, or of one without a suffix by its first bytes; None: of none."""
    if (known := format_by_name(path)) is not None or "." in posixpath.basename(path):
        return known
    with filesystem.open(path, "rb") as file:
        first: bytes = file.read(4)  # pyright: ignore[reportAssignmentType] - opened as bytes
    return next((name for magic, name in _MAGIC.items() if first.startswith(magic)), None)


def reason(error: Exception) -> str:
    """Return what a library says is wrong with a file, on one line."""
    return " ".join(str(error).split())


def require_regular(path: str) -> os.stat_result:
    """Return what the file system says of a local file or folder, links followed.

    Raises:
        ValueError: it is neither (opening a FIFO waits for ever), or a link to nothing.
    """
    try:
        found = os.stat(path)  # noqa: PTH116 - in the walk below, a Path for each file costs as much as the call
    except FileNotFoundError:
        raise ValueError(f"{path}: a link to what is not there; restore what it points to, or remove it") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be reached ({error.strerror}); mend or remove it") from None
    if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
        raise ValueError(f"{path}: a FIFO, socket or device and no file with rows; remove it, or name a file")
    return found


class _Walk:
    """Goes through a local folder, links followed."""

    def __init__(self) -> None:
        # By device, inode and partition: the path, and whether it may be one of several.
        self._seen: dict[tuple[int, int, tuple[str, ...]], tuple[str, bool]] = {}

    def files(self, folder: str) -> Iterator[str]:
        found = require_regular(folder)
        yield from self._below(folder, (), ((found.st_dev, found.st_ino),), linked=False)

    def _below(
        self, folder: str, values: tuple[str, ...], above: tuple[tuple[int, int], ...], *, linked: bool
    ) -> Iterator[str]:
        """Yield what belongs to `folder`; `values` are the partitions that it is in, `above` the folders."""
        for entry in _entries(folder):
            if is_hidden(entry.name):
                continue
            try:
                entry.name.encode()
            except UnicodeEncodeError:
                raise ValueError(f"{entry.path!a}: its name is not UTF-8; rename it") from None
            if _CONTROL.search(entry.name):
                raise ValueError(f"{entry.path!a}: its name holds control characters; rename it")
            found, link = require_regular(entry.path), linked or entry.is_symlink()
            one = (found.st_dev, found.st_ino)
            if stat.S_ISDIR(found.st_mode):
                if one in above:
                    raise ValueError(f"{entry.path}: a link to a folder that it is in; remove it")
                inside = (*values, entry.name) if "=" in entry.name else values
                yield from self._below(entry.path, inside, (*above, one), linked=link)
                continue
            link = link or found.st_nlink > 1
            other, other_link = self._seen.setdefault((*one, values), (entry.path, link))
            if other != entry.path and (link or other_link):
                raise ValueError(f"{entry.path}: the same file as {other}, so its rows would count twice; remove one")
            yield entry.path


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            there = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise ValueError(f"{folder}: cannot be listed ({error.strerror}); mend its permissions") from None
    _refuse_versioned(folder, [entry.name for entry in there])
    return there


def _remote(filesystem: fsspec.AbstractFileSystem, folder: str) -> Iterator[str]:
    for name in map(str, filesystem.find(folder)):
        below = name[len(folder) :].strip("/").split("/")
        if below[-1] == PARTIAL:
            raise ValueError(
                f"{folder}: holds {PARTIAL}, so its writer has not ended, or was killed; run that command again"
            )
        _refuse_versioned(folder, below[:-1])
        if not name.endswith("/") and not any(is_hidden(part) for part in below):
            yield name


def _refuse_versioned(folder: str, names: list[str]) -> None:
    for name in names:
        if name in _VERSIONED:
            raise ValueError(
                f"{folder}: a {_VERSIONED[name]} table (it holds {name}), whose folder has rows of older versions too; "
                "export the present one to Parquet"
            )


def _refuse_unknown(filesystem: fsspec.AbstractFileSystem, path: str) -> None:
    if format_of(filesystem, path) is None:
        message = f"its name ends in none of {', '.join(FORMATS)}"
        if "." not in posixpath.basename(path):
            message = "its name has no suffix, and it begins as neither Parquet nor ORC"
        raise ValueError(
            f"{path}: {message}, so its rows cannot be read; name it as what it is, or move it out of the folder"
        )
