"""Official archives: a folder, a zip, or a zip at a URL whose checksum is pinned.

Members are read as streams by their names and nothing is unpacked, so no path inside an archive can lead outside it.
"""

import contextlib
import gzip
import hashlib
import re
import tarfile
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from recsys_core import uri
from recsys_core.datasets.base import STAGE
from recsys_core.progress import Event, Sink

_CHUNK_BYTES = 1 << 20
_TIMEOUT_SECONDS = 60
_ALGORITHMS = {32: "md5", 64: "sha256"}


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
            self._members = sorted(str(path.relative_to(source)) for path in source.rglob("*") if path.is_file())
        elif zipfile.is_zipfile(source):
            self._zip = zipfile.ZipFile(source)
            self._members = sorted(name for name in self._zip.namelist() if not name.endswith("/"))
        else:
            raise ValueError(f"{source}: neither a folder nor a zip archive; is the download complete?")

    def holds(self, name: str) -> bool:
        """Whether a member is called `name`, compressed or not."""
        return bool(self._find(name))

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """Open member `name`, or `name`.gz or `name`.tar.gz, for reading in order.

        Raises:
            ValueError: no such member, several of them, or one that is damaged; named.
        """
        member = self._one(name)
        try:
            with contextlib.ExitStack() as stack:
                stream: Any = self._zip.open(member) if self._zip else (self.source / member).open("rb")
                stack.enter_context(stream)
                if member.endswith(".tar.gz"):
                    stream = _from_tar(stack.enter_context(tarfile.open(fileobj=stream, mode="r|gz")), name)
                elif member.endswith(".gz"):
                    stream = stack.enter_context(gzip.open(stream))
                yield stream
        except (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
            raise ValueError(f"{self.source}: {member} is damaged ({error}); fetch it again") from None

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
                names = [part.strip() for part in stream.readline().decode().split(delimiter)]
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
                raise ValueError(f"{self.source}: {name}: {error}; is it the published file?") from None

    def records(self, name: str, delimiter: str, width: int) -> Iterator[list[str]]:
        """Stream the lines of a small Latin-1 member, each split into `width` fields or more.

        Raises:
            ValueError: see `open`; or a line with fewer fields, by its number.
        """
        with self.open(name) as stream:
            for number, line in enumerate(stream, start=1):
                fields = line.decode("latin-1").rstrip("\r\n").split(delimiter)
                if fields == [""]:
                    continue
                if len(fields) < width:
                    raise ValueError(
                        f"{self.source}: {name} line {number} has {len(fields)} fields separated by {delimiter!r} "
                        f"where {width} are needed; is it the published file?"
                    )
                yield fields

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
        path = _download(source, checksum, scratch, sink)
    else:
        path = Path(source).expanduser()
        if not path.exists():
            uri.resolve(str(path))
        if checksum is not None:
            _verify(path, source, checksum)
    archive = Archive(path)
    try:
        yield archive
    finally:
        archive.close()


def _from_tar(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    for member in archive:
        if member.isfile() and PurePosixPath(member.name).name == name:
            stream = archive.extractfile(member)
            assert stream is not None
            return stream
    raise ValueError(f"{name}.tar.gz: holds no {name}")


def _download(url: str, checksum: str | None, scratch: Path, sink: Sink) -> Path:
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise ValueError(f"{url}: archives are fetched over http or https only; copy this one to a local path")
    if checksum is None:
        raise ValueError(f"{url}: needs a pinned checksum (sha256:… or md5:…, 64 or 32 hexadecimal digits)")
    _parsed(checksum)
    path = scratch / "download"
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as response, path.open("wb") as file:  # noqa: S310
            total = int(response.headers["Content-Length"]) if response.headers["Content-Length"] else None
            while chunk := response.read(_CHUNK_BYTES):
                file.write(chunk)
                sink(Event(stage=STAGE, done=file.tell(), total=total, unit="bytes", message=f"downloading {url}"))
    except urllib.error.HTTPError as error:
        raise ValueError(f"{url}: the server answered {error.code} {error.reason}; is the address right?") from None
    except urllib.error.URLError as error:
        raise ConnectionError(
            f"{url}: cannot be reached ({error.reason}); fetch it yourself and name the file"
        ) from None
    _verify(path, url, checksum)
    return path


def _verify(path: Path, source: str, checksum: str) -> None:
    algorithm, wanted = _parsed(checksum)
    if not path.is_file():
        raise ValueError(f"{source}: a checksum is for one file, and this is a folder; leave the checksum out")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, algorithm).hexdigest()
    if found != wanted:
        raise ValueError(f"{source}: its {algorithm} is {found} where {wanted} is pinned; refused")


def _parsed(checksum: str) -> tuple[str, str]:
    match = re.fullmatch(r"(?:(sha256|md5):)?([0-9a-f]+)", checksum.lower())
    algorithm = _ALGORITHMS.get(len(match[2])) if match else None
    if match is None or algorithm is None or match[1] not in (None, algorithm):
        raise ValueError(f"checksum {checksum!r}: write sha256: and 64 hexadecimal digits, or md5: and 32")
    return algorithm, match[2]
