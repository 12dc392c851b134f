"""The path grammar: what a user may write where data is read from.

A source is a comma-separated list of pieces; a piece is a file, a directory (searched through), or a glob. Folders
named `key=value` are Hive partitions. `scheme://` is opened through fsspec; no scheme means a local path.
"""

import difflib
import os
import posixpath
import re
import urllib.parse
from pathlib import Path
from typing import NamedTuple

import fsspec
from fsspec.implementations.local import LocalFileSystem

from recsys_core.artifacts import digest_of

_FORMATS = {
    ".parquet": "parquet",
    ".orc": "orc",
    ".csv": "csv",
    ".tsv": "csv",
    ".csv.gz": "csv",
    ".tsv.gz": "csv",
}
SUFFIXES = tuple(_FORMATS)
NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"
# What a store calls the version of an object's content, whichever it reports.
_VERSION_KEYS = ("ETag", "etag", "Content-MD5", "md5Hash", "generation", "LastModified", "last_modified", "mtime")


class Location(NamedTuple):
    """One file: `path` as `filesystem` names it, `partitions` as its folders tell them, outermost first."""

    filesystem: fsspec.AbstractFileSystem
    path: str
    partitions: dict[str, str | None]

    @property
    def is_local(self) -> bool:
        """Whether `path` is one of this machine's."""
        return isinstance(self.filesystem, LocalFileSystem)


def resolve(source: str, suffixes: tuple[str, ...] = SUFFIXES) -> list[Location]:
    """Return the files that `source` names: pieces in the order written, files of one piece sorted by path.

    A directory stands for every file below it that ends in one of `suffixes`; names that open with `.` or `_` are left
    out, as they are other programs' temporary files. A file named outright may end in anything.

    Raises:
        ValueError: a piece is empty or names nothing; the piece is in the message, with the nearest name there is.
    """
    locations: list[Location] = []
    for piece in source.split(","):
        if not piece.strip():
            raise ValueError(f"{source!r}: an empty piece between commas; remove the comma or name a file")
        filesystem, path = _open(piece.strip())
        found = sorted(_files(filesystem, path, suffixes))
        if not found:
            raise ValueError(_nothing(piece.strip(), filesystem, path, suffixes))
        locations += [Location(filesystem, file, partitions(file)) for file in found]
    return locations


def reopen(addresses: list[str]) -> list[Location]:
    """Return the files at these addresses, as `address` tells them, without asking the store if they are there."""
    opened = [fsspec.core.url_to_fs(address) for address in addresses]
    return [Location(filesystem, path, partitions(path)) for filesystem, path in opened]


def address(location: Location) -> str:
    """Return the file's name with its scheme, `file://` for a local one."""
    return location.filesystem.unstrip_protocol(location.path)


def format_of(source: str) -> str:
    """Return the format that the files of `source` share, by their suffixes: `parquet`, `orc` or `csv`.

    Raises:
        ValueError: see `resolve`; or files of two formats, or of none, by their names.
    """
    first: dict[str, str] = {}
    for location in resolve(source):
        suffix = next((end for end in SUFFIXES if location.path.endswith(end)), None)
        if suffix is None:
            raise ValueError(f"{location.path}: its name ends in none of {', '.join(SUFFIXES)}; rename it, or say kind")
        first.setdefault(_FORMATS[suffix], location.path)
    if len(first) > 1:
        raise ValueError(f"{source}: files of several formats ({', '.join(first.values())}); name those of one")
    return next(iter(first))


def partitions(path: str) -> dict[str, str | None]:
    """Return the Hive partition values in the folders of `path`; Hive's name for null becomes None."""
    pairs = (folder.split("=", 1) for folder in posixpath.dirname(path).split("/") if "=" in folder)
    return {key: None if value == NULL_PARTITION else urllib.parse.unquote(value) for key, value in pairs}


def fingerprint(locations: list[Location]) -> str:
    """Return a digest that changes when a file is added, removed, rewritten or resized. No content is read.

    Local files count by size and time of change, remote ones by size and what their store calls a version. The folder
    that holds them all does not count, so a source that was moved with its times kept is the same source.
    """
    return digest_of([[at.partitions, posixpath.basename(at.path), version(at)] for at in locations])


def version(location: Location) -> str:
    """Return a file's size and what tells that its content is the same: its time of change, or the store's version."""
    filesystem, path, _ = location
    info = filesystem.info(path)
    told = next((str(info[key]) for key in _VERSION_KEYS if info.get(key)), None) or filesystem.ukey(path)
    return f"{info['size']} bytes, {told}"


def is_remote(source: str) -> bool:
    """Whether `source` opens with a scheme, such as `s3://`."""
    return "://" in source


def nearest(name: str, names: list[str]) -> str:
    """Return `; did you mean 'x'?` for the likeliest misspelling among `names`, or an empty text."""
    close = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _open(piece: str) -> tuple[fsspec.AbstractFileSystem, str]:
    if not is_remote(piece):
        return LocalFileSystem(), os.path.normpath(Path(piece).expanduser().absolute())
    try:
        filesystem, path = fsspec.core.url_to_fs(piece)
    except (ValueError, ImportError) as error:
        raise ValueError(f"{piece}: cannot open {piece.split('://', 1)[0]!r} paths ({error})") from None
    return filesystem, path.rstrip("/")


def _files(filesystem: fsspec.AbstractFileSystem, path: str, suffixes: tuple[str, ...]) -> list[str]:
    # A name that exists is taken as it is, even if it holds a glob's characters.
    matches = (
        [path]
        if filesystem.exists(path) or not re.search(r"[*?\[]", path)
        else [str(name) for name in filesystem.glob(path)]
    )
    files: list[str] = []
    for match in matches:
        if filesystem.isdir(match):
            below = [str(name) for name in filesystem.find(match)]
            files += [name for name in below if name.endswith(suffixes) and not re.search(r"/[._]", name[len(match) :])]
        elif filesystem.isfile(match):
            files.append(match)
    return files


def _nothing(piece: str, filesystem: fsspec.AbstractFileSystem, path: str, suffixes: tuple[str, ...]) -> str:
    if filesystem.isdir(path):
        return f"{piece}: a directory without any {', '.join(suffixes)} file"
    if re.search(r"[*?\[]", path):
        return f"{piece}: no file matches"
    parent, name = posixpath.split(path)
    there = (
        [posixpath.basename(entry) for entry in filesystem.ls(parent, detail=False)] if filesystem.isdir(parent) else []
    )
    return f"{piece}: no such file or directory{nearest(name, there)}"
