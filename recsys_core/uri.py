"""The path grammar: what a user may write where data is read from.

A source is a comma-separated list of pieces; a piece is a file, a directory (searched through, see `folders`), or a
glob. Folders named `key=value` are Hive partitions. `scheme://` is opened through fsspec; no scheme means a local path.
A name that exists is taken as it is, whatever commas and other signs are in it. What the product has made or was given
as a folder is a `Path`, and never goes through the grammar.
"""

import difflib
import itertools
import os
import posixpath
import re
import urllib.parse
from pathlib import Path
from typing import NamedTuple

import fsspec
from fsspec.implementations.local import LocalFileSystem

from recsys_core import folders
from recsys_core.artifacts import digest_of

Source = str | Path | tuple[str, ...] | tuple[Path, ...]
"""What a reader opens: text in the grammar above, local files or folders as they are, or `address`es of files."""

NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"
# What a store calls the version of an object's content, whichever it reports.
_VERSION_KEYS = ("ETag", "etag", "Content-MD5", "md5Hash", "generation", "LastModified", "last_modified", "mtime")
_LOCAL = "file://"
_WILD = re.compile(r"[*?\[]")


class Location(NamedTuple):
    """One file: `path` as `filesystem` names it, `partitions` as its folders name them, outermost first."""

    filesystem: fsspec.AbstractFileSystem
    path: str
    partitions: dict[str, str | None]

    @property
    def is_local(self) -> bool:
        """Whether `path` is one of this machine's."""
        return isinstance(self.filesystem, LocalFileSystem)


def resolve(source: Source, *, of_any_format: bool = False, may_be_absent: bool = False) -> list[Location]:
    """Return the files that `source` names: pieces in the order written, files of one piece sorted by path.

    A directory stands for every file that belongs to it, see `folders.files`. A file named outright may end in
    anything. Of text, all folders of a file's path name its partitions; of a `Path`, those below it.

    A piece of text that `may_be_absent` and names nothing stands for no file.

    Raises:
        ValueError: a piece is empty, names nothing or a file that was named before, or is a folder with something that
            is not understood; the piece or the file is in the message, with the nearest name there is.
    """
    if isinstance(source, tuple):
        places = [place for place in source if isinstance(place, Path)]
        addresses = tuple(place for place in source if isinstance(place, str))
        return [*reopen(addresses), *(at for place in places for at in resolve(place, of_any_format=of_any_format))]
    if isinstance(source, Path):
        return _of_folder(source.absolute(), of_any_format=of_any_format)
    whole = not is_remote(source) and os.path.lexists(_local(source))
    locations: dict[str, Location] = {}
    for piece in [source] if whole else source.split(","):
        if not piece.strip():
            raise ValueError(f"{source!r}: an empty piece between commas; remove the comma or name a file")
        filesystem, path = _open(piece if whole else piece.strip())
        found = sorted(_files(filesystem, path, of_any_format=of_any_format))
        if not found and not may_be_absent:
            raise ValueError(_nothing(piece.strip(), filesystem, path))
        for file in found:
            location = Location(filesystem, file, partitions(file))
            if locations.setdefault(address(location), location) is not location:
                raise ValueError(f"{source!r}: {file} is named twice, so its rows would count twice; name it once")
    return list(locations.values())


def reopen(addresses: tuple[str, ...]) -> list[Location]:
    """Return the files at these addresses, as `address` gives them, without asking the store if they are there."""
    opened = [_at(address) for address in addresses]
    return [Location(filesystem, path, partitions(path)) for filesystem, path in opened]


def address(location: Location) -> str:
    """Return the file's name with its scheme, `file://` for a local one."""
    return f"{_LOCAL}{location.path}" if location.is_local else location.filesystem.unstrip_protocol(location.path)


def to_state(locations: list[Location]) -> list[tuple[str, dict[str, str | None]]]:
    """Return the locations as JSON values, for `from_state` in another process."""
    return [(address(location), location.partitions) for location in locations]


def from_state(state: list[tuple[str, dict[str, str | None]]]) -> list[Location]:
    """Return what `to_state` was given, without asking the store if it is there."""
    return [Location(*_at(address), values) for address, values in state]


def format_of(source: Source) -> str:
    """Return the format that the files of `source` share, by names or first bytes: `parquet`, `orc` or `csv`.

    Raises:
        ValueError: see `resolve`; or files of two formats, or of none, by their names.
    """
    first: dict[str, str] = {}
    for filesystem, path, _ in resolve(source):
        found = folders.format_of(filesystem, path)
        if found is None:
            known = ", ".join(folders.FORMATS)
            raise ValueError(f"{path}: its name ends in none of {known}; rename it, or say kind")
        first.setdefault(found, path)
    if len(first) > 1:
        raise ValueError(f"{_shown(source)}: files of several formats ({', '.join(first.values())}); name those of one")
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
    names = below_common(locations)
    return digest_of([[at.partitions, name, version(at)] for at, name in zip(locations, names, strict=True)])


def below_common(locations: list[Location]) -> list[str]:
    """Return the files' paths below the folder that holds them all."""
    paths = [f"/{location.path.lstrip('/')}" for location in locations]
    above = posixpath.commonpath([posixpath.dirname(path) for path in paths]) if paths else "/"
    return [posixpath.relpath(path, above) for path in paths]


def version(location: Location) -> str:
    """Return a file's size and what shows that its content is the same: its time of change, or the store's version."""
    filesystem, path, _ = location
    info = filesystem.info(path)
    state = next((str(info[key]) for key in _VERSION_KEYS if info.get(key)), None) or filesystem.ukey(path)
    return f"{info['size']} bytes, {state}"


def is_remote(source: str) -> bool:
    """Whether `source` opens with a scheme, such as `s3://`."""
    return "://" in source


def local(path: str) -> Path:
    """Return the local file or folder of this name, as it is: nothing but a `~` at its start means anything."""
    return Path(_local(path))


def nearest(name: str, names: list[str]) -> str:
    """Return `; did you mean 'x'?` for the likeliest misspelling among `names`, or an empty text."""
    close = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _shown(source: Source) -> str:
    return str(source) if not isinstance(source, tuple) else ", ".join(map(str, source))


def _local(piece: str) -> str:
    return os.path.normpath(os.path.abspath(os.path.expanduser(piece)))  # noqa: PTH100, PTH111 - text, and no error


def _at(address: str) -> tuple[fsspec.AbstractFileSystem, str]:
    if address.startswith(_LOCAL):
        return LocalFileSystem(), address.removeprefix(_LOCAL)
    return fsspec.core.url_to_fs(address)


def _of_folder(place: Path, *, of_any_format: bool) -> list[Location]:
    filesystem, folder = LocalFileSystem(), str(place)
    if not os.path.lexists(folder):
        raise ValueError(_nothing(folder, filesystem, folder))
    found = sorted(_matched(filesystem, folder, of_any_format=of_any_format))
    if not found:
        raise ValueError(_nothing(folder, filesystem, folder))
    return [Location(filesystem, file, partitions(file[len(folder) :])) for file in found]


def _open(piece: str) -> tuple[fsspec.AbstractFileSystem, str]:
    if not is_remote(piece):
        return LocalFileSystem(), _local(piece)
    if not piece.partition("://")[2].strip("/"):
        raise ValueError(f"{piece}: names nothing behind its scheme; write a file or a folder there")
    try:
        filesystem, path = fsspec.core.url_to_fs(piece)
    except (ValueError, ImportError) as error:
        raise ValueError(f"{piece}: cannot open {piece.split('://', 1)[0]!r} paths ({error})") from None
    return filesystem, path.rstrip("/")


def _files(filesystem: fsspec.AbstractFileSystem, path: str, *, of_any_format: bool) -> list[str]:
    # A name that exists is taken as it is, even if it holds a glob's characters.
    there = os.path.lexists(path) if isinstance(filesystem, LocalFileSystem) else filesystem.exists(path)
    if there or not _WILD.search(path):
        return _matched(filesystem, path, of_any_format=of_any_format) if there else []
    # Of `**`, a folder matches, and so do the files in it.
    matched = (_matched(filesystem, match, of_any_format=of_any_format) for match in _glob(filesystem, path))
    return list(dict.fromkeys(itertools.chain.from_iterable(matched)))


def _glob(filesystem: fsspec.AbstractFileSystem, path: str) -> list[str]:
    """Return what matches; a wildcard stands for no hidden name, unless the pattern itself begins like one."""
    parts = path.split("/")
    first = next(number for number, part in enumerate(parts) if _WILD.search(part))
    asked = tuple({part[0] for part in parts[first:] if part.startswith((".", "_"))})
    matches = [str(name) for name in filesystem.glob(path)]
    return [
        match
        for match in matches
        if not any(folders.is_hidden(part) and not part.startswith(asked) for part in match.split("/")[first:])
    ]


def _matched(filesystem: fsspec.AbstractFileSystem, path: str, *, of_any_format: bool) -> list[str]:
    """Return the file at `path`, or those of the folder there."""
    if isinstance(filesystem, LocalFileSystem):
        folders.require_regular(path)
    if filesystem.isdir(path):
        return folders.files(filesystem, path, of_any_format=of_any_format)
    return [path] if filesystem.isfile(path) else []


def _nothing(piece: str, filesystem: fsspec.AbstractFileSystem, path: str) -> str:
    if filesystem.isdir(path):
        return f"{piece}: a directory without any {', '.join(folders.FORMATS)} file"
    if _WILD.search(path):
        return f"{piece}: no file matches"
    parent, name = posixpath.split(path)
    there = (
        [posixpath.basename(entry) for entry in filesystem.ls(parent, detail=False)] if filesystem.isdir(parent) else []
    )
    return f"{piece}: no such file or directory{nearest(name, there)}"
