"""The lines of Criteo's logs: a label, 13 integers and 26 categories of eight hexadecimal digits, between tabs.

Text is read in chunks that end with a line, whose size does not depend on how many threads read them, and each is
parsed into integers by Arrow's CSV reader and a few operations over whole columns. A chunk that cannot be read is
looked through once more line by line, for the first line that is wrong.
"""

import re
from collections.abc import Iterator
from typing import IO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

NUM_INTEGERS, NUM_CATEGORIES = 13, 26
INTEGERS = [f"int_{number}" for number in range(1, NUM_INTEGERS + 1)]
CATEGORIES = [f"cat_{number}" for number in range(1, NUM_CATEGORIES + 1)]
NAMES = ["label", *INTEGERS, *CATEGORIES]

CHUNK_BYTES = 32 << 20
_MAX_LINE_BYTES = 1 << 20
_DIGITS = 8
_TYPES = {
    "label": pa.int8(),
    **dict.fromkeys(INTEGERS, pa.int64()),
    **dict.fromkeys(CATEGORIES, pa.binary()),
}
_HEX_DIGITS = np.frombuffer(b"0123456789abcdef", np.uint8)
_HEX = re.compile(rb"[0-9a-fA-F]{8}")
_INTEGER = re.compile(rb"-?[0-9]{1,18}")


class Chunk(NamedTuple):
    """Whole lines of a file, the number of their first row (from 0, over all files), and that of it in its file."""

    text: bytes
    first_row: int
    first_in_file: int
    num_rows: int


def chunks(stream: IO[bytes], first_row: int) -> Iterator[Chunk]:
    """Cut a file into chunks; its first row is row `first_row` of all.

    Raises:
        ValueError: a line that is longer than any of Criteo's.
    """
    first, rest = first_row, b""
    while True:
        read = stream.read(CHUNK_BYTES)
        text = rest + read
        # The last line may lack its newline.
        end = text.rfind(b"\n") + 1 if read else len(text)
        if read and len(text) - end > _MAX_LINE_BYTES:
            row = first - first_row + text.count(b"\n", 0, end)
            raise ValueError(f"line {row + 1}: longer than {_MAX_LINE_BYTES:,} bytes; is it Criteo's text?")
        if end:
            whole, rest = text[:end], text[end:]
            num_rows = whole.count(b"\n") + (not whole.endswith(b"\n"))
            yield Chunk(whole, first, first - first_row, num_rows)
            first += num_rows
        else:
            rest = text
        if not read:
            return


def parse(chunk: Chunk) -> pa.Table:
    """Return a chunk's rows: label int8, integers int64, categories uint32; an empty field is a null.

    Raises:
        ValueError: a line that is none of Criteo's, by its number in its file.
    """
    try:
        table = pacsv.read_csv(
            pa.BufferReader(chunk.text),
            pacsv.ReadOptions(column_names=NAMES, use_threads=False, block_size=len(chunk.text) + 1),
            pacsv.ParseOptions(delimiter="\t", quote_char=False, ignore_empty_lines=False),
            pacsv.ConvertOptions(column_types=_TYPES, null_values=[""], strings_can_be_null=True),
        )
        labels = table["label"]
        if labels.null_count or not pc.all(pc.is_in(labels, pa.array([0, 1], pa.int8()))).as_py():
            raise _NotCriteoError
        columns = [labels, *(table[name] for name in INTEGERS), *(_numbers(table[name]) for name in CATEGORIES)]
        if table.num_rows != chunk.num_rows:
            raise _NotCriteoError
    except (pa.ArrowInvalid, _NotCriteoError):
        raise ValueError(_what_is_wrong(chunk)) from None
    return pa.table(columns, NAMES)


def hexadecimal(numbers: np.ndarray, missing: np.ndarray | None = None) -> pa.Array:
    """Return the eight digits of each number, uint32 [N], as text; null where it is `missing`, bool [N]."""
    octets = numbers.astype(">u4").view(np.uint8)
    digits = _HEX_DIGITS[np.stack([octets >> 4, octets & 0xF], axis=1)]
    offsets = np.arange(len(numbers) + 1, dtype=np.int32) * _DIGITS
    valid = None if missing is None else pa.array(~missing).buffers()[1]
    return pa.Array.from_buffers(pa.string(), len(numbers), [valid, pa.py_buffer(offsets), pa.py_buffer(digits)])


def from_hexadecimal(column: pa.ChunkedArray) -> np.ndarray:
    """Return the numbers, uint32 [N], of text that `hexadecimal` has written."""
    return _numbers(column.cast(pa.binary())).to_numpy()


class _NotCriteoError(Exception):
    """A field that is not what its column holds."""


def _numbers(column: pa.ChunkedArray) -> pa.Array:
    """Return what eight hexadecimal digits stand for, as uint32."""
    values = column.drop_null()
    if pc.unique(pc.binary_length(values)).to_pylist() not in ([], [_DIGITS]):
        raise _NotCriteoError
    digits = _bytes(values)
    lower = digits | 0x20
    is_letter = (lower >= ord("a")) & (lower <= ord("f"))
    if not (is_letter | ((digits >= ord("0")) & (digits <= ord("9")))).all():
        raise _NotCriteoError
    nibbles = (digits & 0xF) + np.uint8(9) * is_letter
    pairs = (nibbles[0::2] << 4) | nibbles[1::2]
    numbers = pairs.view(">u4").astype(np.uint32)
    if not column.null_count:
        return pa.array(numbers)
    there = column.is_valid().to_numpy()
    spread = np.zeros(len(column), np.uint32)
    spread[there] = numbers
    return pa.array(spread, mask=~there)


def _bytes(values: pa.ChunkedArray) -> np.ndarray:
    """Return the bytes of values that have no nulls, one after another, uint8."""
    parts: list[np.ndarray] = []
    for chunk in values.chunks:
        _, offsets, data = chunk.buffers()
        ends = np.frombuffer(offsets, np.int32)[chunk.offset : chunk.offset + len(chunk) + 1]
        if data is not None and len(chunk):
            parts.append(np.frombuffer(data, np.uint8)[ends[0] : ends[-1]])
    return np.concatenate(parts) if parts else np.zeros(0, np.uint8)


def _what_is_wrong(chunk: Chunk) -> str:
    for row, line in enumerate(chunk.text.removesuffix(b"\n").split(b"\n"), chunk.first_in_file + 1):
        if (wrong := _wrong_with(line.removesuffix(b"\r").split(b"\t"))) is not None:
            return f"line {row}: {wrong}"
    return f"lines {chunk.first_in_file + 1} to {chunk.first_in_file + chunk.num_rows}: not Criteo's text"


def _wrong_with(fields: list[bytes]) -> str | None:
    """Return what is wrong with a line of these fields."""
    if len(fields) != len(NAMES):
        hint = "; the published test.txt has no labels" if len(fields) == len(NAMES) - 1 else ""
        return f"{len(fields)} fields between tabs, where label, integers and categories are {len(NAMES)}{hint}"
    for name, field in zip(NAMES, fields, strict=True):
        shown = field[:40].decode("ascii", "backslashreplace")
        if name == "label" and field not in (b"0", b"1"):
            return f"label {shown!r}, which is neither 0 nor 1"
        if name in INTEGERS and field and not _INTEGER.fullmatch(field):
            return f"{name} {shown!r}, which is no integer"
        if name in CATEGORIES and field and not _HEX.fullmatch(field):
            return f"{name} {shown!r}, which is not eight hexadecimal digits"
    return None
