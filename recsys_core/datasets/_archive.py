"""Official archives: a folder, a zip, or a zip at a URL whose checksum is pinned.

Members are read as streams by their names and nothing is unpacked, so no path inside an archive can lead outside it.
"""

import contextlib
import gzip
import io
import lzma
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from recsys_core import folders, uri
from recsys_core.datasets import _download
from recsys_core.progress import Sink

_CHUNK_BYTES = 1 << 20
_MAX_LINE_BYTES = 1 << 20
# Logs shrink to a tenth or so. What unfolds to more than this many times its size, and is large then, is a bomb.
_MAX_RATIO = 200
_SMALL_BYTES = 64 << 20
_MAX_MEMBERS = 100_000
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
_BROKEN = (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, EOFError, struct.error)
_UNKNOWN = (NotImplementedError, OverflowError)  # of zips whose headers name what nothing writes


class Archive:
    """The files of a folder or of a zip, found by name in whatever subfolder they lie."""

    def __init__(self, source: Path) -> None:
        """List the members of `source`.

        Raises:
            ValueError: `source` is neither a folder nor a zip.
        """
        self.source = source
        self._zip: zipfile.ZipFile | None = None
        if source.is_dir():
            found = uri.resolve(source, of_any_format=True)
            self._members = sorted(str(Path(at.path).relative_to(source.absolute())) for at in found)
        elif zipfile.is_zipfile(source):
            self._zip = _opened_zip(source)
            names = (name for name in self._zip.namelist() if not name.endswith("/"))
            self._members = sorted(name for name in names if not any(map(folders.is_hidden, name.split("/"))))
        else:
            raise ValueError(f"{source}: neither a folder nor a zip archive; is the download complete?")

    def holds(self, name: str) -> bool:
        """Whether a member is called `name`, compressed or not."""
        return bool(self._find(name))

    def num_bytes(self, name: str) -> int | None:
        """Return the size of member `name`; None if it is compressed, and so not known before it is read.

        Raises:
            ValueError: no such member, or several of them.
        """
        member = self._one(name)
        if member.endswith(".gz"):
            return None
        return self._zip.getinfo(member).file_size if self._zip else (self.source / member).stat().st_size

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """Open member `name`, or `name`.gz or `name`.tar.gz, for reading in order.

        Raises:
            ValueError: no such member, several of them, or one that is damaged; named.
        """
        member = self._one(name)
        try:
            with contextlib.ExitStack() as stack:
                stream: Any = self._zip.open(self._checked(member)) if self._zip else (self.source / member).open("rb")
                stack.enter_context(stream)
                if member.endswith(".gz"):
                    stream = stack.enter_context(
                        io.BufferedReader(_Bounded(gzip.GzipFile(fileobj=stream), self._most(member)))
                    )
                if member.endswith(".tar.gz"):
                    stream = _from_tar(stack.enter_context(tarfile.open(fileobj=stream, mode="r|")), name)
                yield stream
        except (*_BROKEN, *_UNKNOWN) as error:
            raise ValueError(f"{self.source}: {member} is damaged ({error}); fetch it again") from None
        except _BombError as error:
            raise ValueError(
                f"{self.source}: {member} unfolds to more than {error} bytes, as no log does; refused"
            ) from None

    def _checked(self, member: str) -> zipfile.ZipInfo:
        """Return what the zip says of a member.

        Raises:
            ValueError: it is no file with data in it.
        """
        assert self._zip is not None
        info = self._zip.getinfo(member)
        path = PurePosixPath(member)
        wrong = {
            "is a link": stat.S_ISLNK(info.external_attr >> 16),
            "has a path that leads out of the archive": path.is_absolute() or ".." in path.parts,
            "is encrypted; decrypt it": bool(info.flag_bits & 1),
            f"is compressed by method {info.compress_type}, which is not known": info.compress_type not in _METHODS,
            f"unfolds from {info.compress_size:,} to {info.file_size:,} bytes, as no log does": info.file_size
            > max(_SMALL_BYTES, _MAX_RATIO * info.compress_size),
        }
        if reasons := [what for what, holds in wrong.items() if holds]:
            raise ValueError(f"{self.source}: {member} {reasons[0]}; refused")
        return info

    def _most(self, member: str) -> int:
        """Return the bytes to which a compressed member may unfold."""
        size = self._zip.getinfo(member).file_size if self._zip else (self.source / member).stat().st_size
        return max(_SMALL_BYTES, _MAX_RATIO * size)

    def csv(
        self, name: str, columns: dict[str, pa.DataType], *, delimiter: str, header: bool = False
    ) -> Iterator[pa.Table]:
        """Stream member `name` as tables of `columns` (without a header they name all of the file's, in order).

        Raises:
            ValueError: see `open`; or a row that does not fit, or a column that the header lacks.
        """
        with self.open(name) as stream:
            if header:
                # Some published files pad their header's names with blanks.
                names = [part.strip() for part in self._header(name, stream).split(delimiter)]
                absent = [column for column in columns if column not in names]
                if absent:
                    raise ValueError(f"{self.source}: {name} has no column {absent[0]!r}, only {', '.join(names)}")
            else:
                names = list(columns)
            try:
                reader = pacsv.open_csv(
                    stream,
                    pacsv.ReadOptions(column_names=names, block_size=_CHUNK_BYTES, use_threads=False),
                    pacsv.ParseOptions(delimiter=delimiter, quote_char=False),
                    pacsv.ConvertOptions(
                        column_types=columns,
                        include_columns=list(columns),
                        null_values=["", "NULL"],
                        strings_can_be_null=True,
                    ),
                )
                for batch in reader:
                    yield pa.Table.from_batches([batch])
            except pa.ArrowInvalid as error:
                message = f"a line longer than {_CHUNK_BYTES:,} bytes" if "straddl" in str(error) else error
                raise ValueError(f"{self.source}: {name}: {message}; is it the published file?") from None

    def _header(self, name: str, stream: IO[bytes]) -> str:
        try:
            return _line(stream).decode()
        except ValueError as error:
            raise ValueError(
                f"{self.source}: {name}: no header of names ({error}); is it the published file?"
            ) from None

    def records(self, name: str, delimiter: str, width: int) -> Iterator[list[str]]:
        """Stream the lines of a small Latin-1 member, each split into `width` fields or more.

        Raises:
            ValueError: see `open`; or a line with fewer fields, by its number.
        """
        with self.open(name) as stream:
            number = 0
            while line := self._next(name, stream, number := number + 1):
                fields = line.decode("latin-1").rstrip("\r\n").split(delimiter)
                if fields == [""]:
                    continue
                if len(fields) < width:
                    raise ValueError(
                        f"{self.source}: {name} line {number} has {len(fields)} fields separated by {delimiter!r} "
                        f"where {width} are needed; is it the published file?"
                    )
                yield fields

    def _next(self, name: str, stream: IO[bytes], number: int) -> bytes:
        try:
            return _line(stream)
        except _TooLongError as error:
            raise ValueError(f"{self.source}: {name} line {number} is {error}; is it the published file?") from None

    def parquet(self, name: str, columns: list[str]) -> Iterator[pa.Table]:
        """Stream `columns` of the Parquet file `name` of a folder.

        Raises:
            ValueError: no such file, one that is damaged, or one without the columns.
        """
        path = self.source / self._one(name)
        try:
            file = pq.ParquetFile(path)
            absent = [column for column in columns if column not in file.schema_arrow.names]
            if absent:
                raise ValueError(f"{path}: no column {absent[0]!r}{uri.nearest(absent[0], file.schema_arrow.names)}")
            for batch in file.iter_batches(batch_size=_CHUNK_BYTES, columns=columns):
                yield pa.Table.from_batches([batch])
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(f"{path}: cannot be read as Parquet ({error})") from None

    def close(self) -> None:
        """Close the zip."""
        if self._zip:
            self._zip.close()

    def _one(self, name: str) -> str:
        found = self._find(name)
        if len(found) == 1:
            return found[0]
        there = f"several: {', '.join(found)}" if found else ", ".join(self._members[:12]) or "nothing"
        raise ValueError(f"{self.source}: one file {name} is needed, and it holds {there}")

    def _find(self, name: str) -> list[str]:
        wanted = {name, f"{name}.gz", f"{name}.tar.gz"}
        return [member for member in self._members if PurePosixPath(member).name in wanted]


@contextlib.contextmanager
def opened(source: str, checksum: str | None, scratch: Path, sink: Sink) -> Iterator[Archive]:
    """Open the archive at `source`, a local path or an http(s) URL; a URL's file is kept in `scratch` meanwhile.

    Raises:
        ValueError: no such path, a URL without a checksum, or content that does not have the checksum.
    """
    if uri.is_remote(source):
        path = scratch / "download"
        _download.fetch(source, checksum, path, sink)
    else:
        path = uri.local(source)
        if not os.path.lexists(path):
            uri.resolve(path)
        folders.require_regular(str(path))
        if checksum is not None:
            _download.verify(path, source, checksum)
    archive = Archive(path)
    try:
        yield archive
    finally:
        archive.close()


def _opened_zip(source: Path) -> zipfile.ZipFile:
    try:
        archive = zipfile.ZipFile(source)
    except (*_BROKEN, *_UNKNOWN, ValueError) as error:
        raise ValueError(f"{source}: a damaged zip archive ({error}); fetch it again") from None
    if len(archive.infolist()) > _MAX_MEMBERS:
        archive.close()
        raise ValueError(f"{source}: a zip of more than {_MAX_MEMBERS:,} members, as no published log is; refused")
    return archive


class _BombError(Exception):
    """More came out of a compressed file than its size bears out."""


class _TooLongError(ValueError):
    """A line has no end."""


class _Bounded(io.RawIOBase):
    """A stream that may yield so many bytes and no more."""

    def __init__(self, stream: Any, most: int) -> None:
        """`stream` is closed with this one."""
        self._stream, self._left, self._most = stream, most, most

    def readable(self) -> bool:
        """It can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read as `io` has it."""
        content = self._stream.read(len(buffer))
        self._left -= len(content)
        if self._left < 0:
            raise _BombError(f"{self._most:,}")
        buffer[: len(content)] = content
        return len(content)

    def close(self) -> None:
        """Close the stream, too."""
        self._stream.close()
        super().close()


def _line(stream: IO[bytes]) -> bytes:
    line = stream.readline(_MAX_LINE_BYTES + 1)
    if len(line) > _MAX_LINE_BYTES:
        raise _TooLongError(f"longer than {_MAX_LINE_BYTES:,} bytes")
    return line


def _from_tar(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    for number, member in enumerate(archive):
        if number > _MAX_MEMBERS:
            raise ValueError(f"{name}.tar.gz: more than {_MAX_MEMBERS:,} members, as no published log has; refused")
        path = PurePosixPath(member.name)
        if path.name != name or member.isdir():
            continue
        if not member.isfile() or path.is_absolute() or ".." in path.parts:
            raise ValueError(f"{name}.tar.gz: {member.name} is a link, or leads out of the archive; refused")
        stream = archive.extractfile(member)
        assert stream is not None
        return stream
    raise ValueError(f"{name}.tar.gz: holds no {name}")
