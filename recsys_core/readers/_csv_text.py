"""The text of a CSV file, in stretches of whole lines that can be read alone, as UTF-8 with line feeds.

Offsets are those of the file's own bytes, of a gzipped one those of the bytes inside.
"""

import codecs
import re
import threading
import zlib
from collections.abc import Iterator
from typing import IO, Any, NamedTuple

import numpy as np

from recsys_core.uri import Location

BLOCK_BYTES = 1 << 22
_GZIP_BYTES = 1 << 20
_GZIP = 31  # zlib's code for gzip framing with the largest window
# Those of UTF-32 begin like those of UTF-16.
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
_NAMES = {"utf-8-sig": "utf-8", "utf-16": "utf-16-le", "utf-32": "utf-32-le"}
_WIDTHS = {"utf-16-le": 2, "utf-16-be": 2, "utf-32-le": 4, "utf-32-be": 4}
_LF, _CR = "\n", "\r"
_LINE_FEED = b"\n"


def check_encoding(name: str) -> str:
    """Return Python's name of an encoding in which the ends of lines can be found.

    Raises:
        ValueError: no such encoding, or one whose line feeds are not those of ASCII or of UTF-16 and UTF-32.
    """
    try:
        known = codecs.lookup(name).name
        plain = "a,\n".encode(known)
    except LookupError:
        raise ValueError(
            f"{name!r} is no encoding of text; write one such as utf-8, latin-1, gb18030 or utf-16"
        ) from None
    known = _NAMES.get(known, known)
    if plain != b"a,\n" and known not in _WIDTHS:
        raise ValueError(f"{name!r}: its commas and line feeds are not those of ASCII; write the file as UTF-8")
    return known


class Form(NamedTuple):
    """How a file's bytes are text: their encoding, where the text begins, and what ends a line."""

    encoding: str
    start: int
    ending: str


class Lines(NamedTuple):
    """Whole lines: bytes `start` to `stop` of a file, the first of which is line number `first_line` (from 1)."""

    start: int
    stop: int
    first_line: int
    text: bytes


class Text:
    """The text of one file.

    Attributes:
        form: what is found out from its first bytes, or was by another process.
    """

    def __init__(self, location: Location, encoding: str | None, form: Form | None = None) -> None:
        """`encoding` None: the one that a byte order mark names, else UTF-8."""
        self._path = location.path
        self._bytes = _Gzip(location) if location.path.lower().endswith(".gz") else _Plain(location)
        self.form = form or self._look(encoding)

    def lines(self) -> Iterator[Lines]:
        """Yield the whole text; the last line may lack its end.

        Raises:
            ValueError: bytes that are no text of the encoding, NUL bytes, or stray carriage returns; names the line.
        """
        ending, width = self.form.ending.encode(self.form.encoding), _WIDTHS.get(self.form.encoding, 1)
        start, held, number, skip = self.form.start, b"", 1, self.form.start
        for chunk in self._bytes.chunks():
            held += chunk[skip:]
            skip = 0
            if end := _end_of_lines(held, ending, width):
                text = self._decoded(held[:end], number)
                yield Lines(start, start + end, number, text)
                start, held, number = start + end, held[end:], number + text.count(_LINE_FEED)
        if held:
            yield Lines(start, start + len(held), number, self._decoded(held, number))

    def read(self, start: int, stop: int) -> bytes:
        """Return lines that `lines` has found."""
        return self._decoded(self._bytes.read(start, stop), 1)

    def num_bytes(self, text: bytes) -> int:
        """Return how many of the file's bytes stand for a text that `lines` has found."""
        return len(text) if self.form.encoding == "utf-8" else len(text.decode().encode(self.form.encoding))

    def _look(self, encoding: str | None) -> Form:
        first = b""
        for chunk in self._bytes.chunks():
            first += chunk
            # A gzipped file's first chunk may be short of the first line.
            if len(first) >= BLOCK_BYTES or (len(first) > 4 and re.search(rb"[\r\n]", first[:-4])):
                break
        mark = next((mark for mark in _MARKS if first.startswith(mark)), b"")
        if encoding is not None and _MARKS.get(mark) != encoding:
            mark = b""
        encoding = encoding or _MARKS.get(mark, "utf-8")
        width = _WIDTHS.get(encoding, 1)
        has_lf, has_cr = (_end_of_lines(first[len(mark) :], end.encode(encoding), width) > 0 for end in (_LF, _CR))
        return Form(encoding, len(mark), _CR if has_cr and not has_lf else _LF)

    def _decoded(self, content: bytes, first_line: int) -> bytes:
        encoding, ending = self.form.encoding, self.form.ending
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError as error:
            at = first_line + content.count(ending.encode(encoding), 0, error.start)
            raise ValueError(
                f"{self._path}: line {at}: byte {content[error.start]:#04x} is not {encoding}; say the file's encoding "
                "in csv.encoding, such as latin-1 or gb18030, or write it as UTF-8"
            ) from None
        if encoding != "utf-8":
            content = text.encode()
        if ending == _CR:
            content = content.replace(b"\r", b"\n")
        if (nul := content.find(b"\0")) >= 0:
            raise ValueError(
                f"{self._path}: line {first_line + content.count(_LINE_FEED, 0, nul)}: a NUL byte, which no text "
                "holds; say the file's encoding in csv.encoding, such as utf-16-le, or write it again"
            )
        if content.count(b"\r") != content.count(b"\r\n"):
            returns = np.flatnonzero(np.frombuffer(content, np.uint8) == ord("\r")).tolist()
            stray = next(place for place in returns if content[place + 1 : place + 2] != _LINE_FEED)
            raise ValueError(
                f"{self._path}: line {first_line + content.count(_LINE_FEED, 0, stray)}: a carriage return inside of "
                "the line, where others end with a line feed; end all lines alike, or take it out of the value"
            )
        return content


def num_lines(text: bytes) -> int:
    """Count the lines that are not empty, as Arrow's parser takes them."""
    return len(filled_lines(text))


def filled_lines(text: bytes) -> np.ndarray:
    """Return the numbers, from 0, of the lines that are not empty."""
    content = np.frombuffer(text, np.uint8)
    ends = np.flatnonzero(content == ord("\n"))
    if len(text) and not text.endswith(b"\n"):
        ends = np.append(ends, len(text))
    lengths = np.diff(ends, prepend=-1) - 1
    carriage_only = (lengths == 1) & (content[np.maximum(ends - 1, 0)] == ord("\r"))
    return np.flatnonzero((lengths > 0) & ~carriage_only)


def _end_of_lines(text: bytes, ending: bytes, width: int) -> int:
    """Return where the last whole line ends; characters of `width` bytes begin at multiples of it."""
    place = text.rfind(ending)
    while place >= 0 and place % width:
        place = text.rfind(ending, 0, place + len(ending) - 1)
    return place + len(ending) if place >= 0 else 0


class _Plain:
    """The text of a plain file."""

    def __init__(self, location: Location) -> None:
        self._location = location

    def chunks(self) -> Iterator[bytes]:
        with _opened(self._location) as file:
            while chunk := file.read(BLOCK_BYTES):
                yield chunk

    def read(self, start: int, stop: int) -> bytes:
        with _opened(self._location) as file:
            file.seek(start)
            return file.read(stop - start)


class _Gzip:
    """The text of a gzipped file, with places to start from every few megabytes of it."""

    def __init__(self, location: Location) -> None:
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
                    chunk = engine.decompress(rest, BLOCK_BYTES)
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
        while not engine.eof and (chunk := engine.decompress(b"", BLOCK_BYTES)):
            yield chunk
        if not engine.eof:
            raise ValueError(f"{self._location.path}: the gzip file ends in the middle; fetch it again")

    def _note(self, text: int, offset: int, engine: Any, rest: bytes) -> None:
        with self._lock:
            if not engine.eof and text >= self._places[-1][0] + BLOCK_BYTES:
                self._places.append((text, offset, engine.copy(), rest))


def _opened(location: Location) -> IO[bytes]:
    opened: Any = location.filesystem.open(location.path, "rb")
    return opened
