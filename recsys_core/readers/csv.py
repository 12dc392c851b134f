"""CSV and TSV files, plain or gzipped; a block is a few megabytes of whole lines.

Opening a table counts the lines of all files once. A plain file's blocks are read from their offsets; a gzipped one
keeps the decompressor's state at the start of each block, so that any block can be read without those before it.
"""

import re
import threading
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
from pydantic import Field

from recsys_core import uri
from recsys_core.artifacts import Frozen
from recsys_core.readers import _files, base

_BLOCK_BYTES = 1 << 22
_GZIP_BYTES = 1 << 20
_GZIP = 31  # zlib's code for gzip framing with the largest window
_OPENING_THREADS = 4
_DECIMAL = re.compile(r"decimal(?:128)?\((\d+), ?(\d+)\)")


class Config(Frozen):
    """`path` is anything that `uri.Source` may be. A value that is quoted may not hold line breaks.

    The types of columns that `types` does not name are those that Arrow infers from the first block.
    """

    kind: Literal["csv"] = "csv"
    path: uri.Source
    delimiter: str | None = Field(
        default=None, min_length=1, max_length=1, description="null: a tab for .tsv, else a comma"
    )
    header: bool = Field(default=True, description="whether the first line of each file names the columns")
    column_names: tuple[str, ...] | None = Field(default=None, description="needed without a header")
    types: dict[str, str] = Field(default={}, description="Arrow type by column, such as int64, string, decimal(10,2)")
    null_values: tuple[str, ...] = ("", "NULL", "null", r"\N")


class _Block(NamedTuple):
    """Bytes `start` to `stop` of a file's text, whole lines, `num_rows` of which hold something."""

    file: int
    start: int
    stop: int
    num_rows: int


class Reader(base.Reader):
    """Parses blocks of lines, each by itself."""

    def __init__(self, config: Config, state: dict[str, Any] | None = None) -> None:
        """Open `config.path`'s files.

        Raises:
            ValueError: no such file, no columns' names, files that name other columns, a type that Arrow does not
                know, or a damaged gzip file.
        """
        self._config = config
        self._files = _files.Files(config.path, state["files"] if state else None)
        self._texts = [_Gzip(at) if at.path.lower().endswith(".gz") else _Plain(at) for at in self._files.locations]
        if state is None:
            with ThreadPoolExecutor(_OPENING_THREADS) as pool:
                found = list(pool.map(self._scan, range(len(self._texts))))
            self._blocks = [block for blocks, _ in found for block in blocks]
            self._names = self._same_names(found)
            self._own = self._infer()
        else:
            self._blocks = [_Block(*block) for block in state["blocks"]]
            self._own = _files.schema_from(state["schema"])
            self._names = self._own.names
        self.schema = self._files.with_partitions(self._own)
        self.fingerprint = self._files.fingerprint
        self.block_rows = np.array([block.num_rows for block in self._blocks], dtype=np.int64)

    def read(self, block: int, columns: Sequence[str]) -> pa.Table:
        """See `base.Reader.read`."""
        at = self._blocks[block]
        own = [name for name in columns if name in self._names]
        table = self._parse(at, dict(zip(self._own.names, self._own.types, strict=True)), own or self._names[:1])
        return self._files.completed(table, at.file, columns)

    def state(self) -> dict[str, Any]:
        """See `base.Reader.state`."""
        return {
            "files": self._files.state(),
            "schema": _files.schema_to_text(self._own),
            "blocks": [list(block) for block in self._blocks],
        }

    def _scan(self, file: int) -> tuple[list[_Block], list[str]]:
        """Return the blocks of a file, and its columns' names."""
        names = list(self._config.column_names or ())
        blocks: list[_Block] = []
        header = self._config.header
        for start, text in _whole_lines(self._texts[file].chunks()):
            begin = start
            if header:
                end = text.find(b"\n") + 1 or len(text)
                line = text[:end].decode("utf-8-sig", errors="replace").rstrip("\r\n")
                names, begin, header = (
                    [name.strip('"') for name in line.split(self._delimiter(file))],
                    start + end,
                    False,
                )
            num_rows = _num_lines(text[begin - start :])
            if num_rows:
                blocks.append(_Block(file, begin, start + len(text), num_rows))
        if not names:
            raise ValueError(
                f"{self._files.locations[file].path}: no names of columns: the file is empty, or has no header; give "
                "column_names with header: false"
            )
        return blocks, names

    def _same_names(self, by_file: list[tuple[list[_Block], list[str]]]) -> list[str]:
        schemas = [pa.schema([(name, pa.null()) for name in names]) for _, names in by_file]
        rows = [sum(block.num_rows for block in blocks) for blocks, _ in by_file]
        paths = [location.path for location in self._files.locations]
        names = _files.same_schema(list(zip(paths, schemas, rows, strict=True))).names
        if len(set(names)) != len(names):
            raise ValueError(f"{paths[0]}: two columns have one name ({', '.join(names)}); give column_names")
        return names

    def _infer(self) -> pa.Schema:
        given: dict[str, pa.DataType] = {}
        for name, kind in self._config.types.items():
            if name not in self._names:
                raise ValueError(f"types: there is no column {name!r}; there are {', '.join(self._names)}")
            given[name] = _type(name, kind)
        if not self._blocks:
            return pa.schema([(name, given.get(name, pa.string())) for name in self._names])
        schema = self._parse(self._blocks[0], given, self._names).schema
        # A column that is empty so far may hold anything: text takes it all.
        fields = [f.with_type(pa.string()) if pa.types.is_null(f.type) else f for f in schema]
        return pa.schema(fields)

    def _parse(self, block: _Block, types: dict[str, pa.DataType], columns: list[str]) -> pa.Table:
        location = self._files.locations[block.file]
        try:
            text = self._texts[block.file].read(block.start, block.stop)
            table = pacsv.read_csv(
                pa.BufferReader(text),
                pacsv.ReadOptions(column_names=self._names, use_threads=False, block_size=max(len(text), 1)),
                pacsv.ParseOptions(delimiter=self._delimiter(block.file)),
                pacsv.ConvertOptions(
                    column_types=types,
                    include_columns=columns,
                    null_values=list(self._config.null_values),
                    strings_can_be_null=True,
                ),
            )
        except (pa.ArrowException, OSError, zlib.error) as error:
            raise ValueError(
                f"{location.path}: bytes {block.start} to {block.stop} cannot be read ({error}); mend those lines, or "
                "say the column's type in types"
            ) from None
        if table.num_rows != block.num_rows:
            raise ValueError(
                f"{location.path}: bytes {block.start} to {block.stop} hold {table.num_rows} rows in "
                f"{block.num_rows} lines; a quoted value with a line break in it cannot be read, write the file without"
            )
        return table

    def _delimiter(self, file: int) -> str:
        path = self._files.locations[file].path.lower()
        return self._config.delimiter or ("\t" if path.removesuffix(".gz").endswith(".tsv") else ",")


def _type(name: str, text: str) -> pa.DataType:
    """Return the Arrow type that `text` names for the column `name`."""
    try:
        if match := _DECIMAL.fullmatch(text):
            return pa.decimal128(*map(int, match.groups()))
        return pa.type_for_alias(text)
    except (ValueError, pa.ArrowException):
        raise ValueError(f"types: {name}: {text!r} is no type that Arrow knows by name") from None


class _Plain:
    """The text of a plain file."""

    def __init__(self, location: uri.Location) -> None:
        self._location = location

    def chunks(self) -> Iterator[bytes]:
        with _opened(self._location) as file:
            while chunk := file.read(_BLOCK_BYTES):
                yield chunk

    def read(self, start: int, stop: int) -> bytes:
        with _opened(self._location) as file:
            file.seek(start)
            return file.read(stop - start)


class _Gzip:
    """The text of a gzipped file, with places to start from every few megabytes of it."""

    def __init__(self, location: uri.Location) -> None:
        self._location = location
        self._lock = threading.Lock()
        # Offset in the text, offset in the file, the decompressor there, and what it has not yet taken.
        self._places: list[tuple[int, int, Any, bytes]] = [(0, 0, zlib.decompressobj(_GZIP), b"")]

    def chunks(self) -> Iterator[bytes]:
        return self._from(0)

    def read(self, start: int, stop: int) -> bytes:
        with self._lock:
            place = max(i for i, at in enumerate(self._places) if at[0] <= start)
        skip, wanted, parts, held = start - self._places[place][0], stop - self._places[place][0], [], 0
        for chunk in self._from(place):
            parts.append(chunk)
            held += len(chunk)
            if held >= wanted:
                break
        return b"".join(parts)[skip:wanted]

    def _from(self, place: int) -> Iterator[bytes]:
        """Yield the text from a place on, in chunks, noting new places on the way."""
        text, offset, engine, rest = self._places[place]
        engine = engine.copy()
        with _opened(self._location) as file:
            file.seek(offset)
            while rest or (rest := file.read(_GZIP_BYTES)):
                offset = file.tell()
                if engine.eof:
                    # Gzip members in a row are one text.
                    engine = zlib.decompressobj(_GZIP)
                try:
                    chunk = engine.decompress(rest, _BLOCK_BYTES)
                except zlib.error as error:
                    raise ValueError(
                        f"{self._location.path}: not a gzip file, or a damaged one, from byte {text} of its text on "
                        f"({error}); fetch it again, or take .gz off its name"
                    ) from None
                rest = engine.unused_data if engine.eof else engine.unconsumed_tail
                if chunk:
                    yield chunk
                    text += len(chunk)
                    self._note(text, offset, engine, rest)
        while not engine.eof and (chunk := engine.decompress(b"", _BLOCK_BYTES)):
            yield chunk
        if not engine.eof:
            raise ValueError(f"{self._location.path}: the gzip file ends in the middle; fetch it again")

    def _note(self, text: int, offset: int, engine: Any, rest: bytes) -> None:
        with self._lock:
            if not engine.eof and text >= self._places[-1][0] + _BLOCK_BYTES:
                self._places.append((text, offset, engine.copy(), rest))


def _opened(location: uri.Location) -> IO[bytes]:
    opened: Any = location.filesystem.open(location.path, "rb")
    return opened


def _whole_lines(chunks: Iterator[bytes]) -> Iterator[tuple[int, bytes]]:
    """Yield the text in pieces that end with a line, each with its offset; the last line may lack its end."""
    start, held = 0, b""
    for chunk in chunks:
        held += chunk
        if end := held.rfind(b"\n") + 1:
            yield start, held[:end]
            start, held = start + end, held[end:]
    if held:
        yield start, held


def _num_lines(text: bytes) -> int:
    """Count the lines that are not empty, as Arrow's parser takes them."""
    content = np.frombuffer(text, np.uint8)
    ends = np.flatnonzero(content == ord("\n"))
    if len(text) and not text.endswith(b"\n"):
        ends = np.append(ends, len(text))
    lengths = np.diff(ends, prepend=-1) - 1
    carriage_only = (lengths == 1) & (content[np.maximum(ends - 1, 0)] == ord("\r"))
    return int(((lengths > 0) & ~carriage_only).sum())
