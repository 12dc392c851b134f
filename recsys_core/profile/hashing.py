"""A 64-bit hash per value of an Arrow array, without a Python step per row. The same value has the same hash always."""

import numpy as np
import pyarrow as pa
import xxhash

from recsys_core.profile.sketches import mixed

_TEXTS = (pa.string(), pa.large_string(), pa.binary(), pa.large_binary())
_WORD_BYTES = 8
_MAX_WORDS = 16
# A text's length takes part, or "a" and "a\0" were one.
_SEED = np.uint64(0xD6E8FEB86659FD93)


def hashes(values: pa.Array) -> np.ndarray:
    """Return uint64 hashes [N] of N integers, floats, texts or bytes without nulls."""
    if pa.types.is_integer(values.type) or pa.types.is_floating(values.type):
        return of_numbers(values.to_numpy(zero_copy_only=False))
    return _of_texts(values if values.type in _TEXTS else values.cast(pa.large_binary()))


def of_numbers(values: np.ndarray) -> np.ndarray:
    """Return uint64 hashes [N] of numbers [N]; an integer and the float that equals it differ."""
    if values.dtype.kind == "f":
        # 0.0 and -0.0 are one number.
        return mixed((values.astype(np.float64) + 0.0).view(np.uint64))
    return mixed(values.astype(np.uint64 if values.dtype.kind == "u" else np.int64).view(np.uint64))


def _of_texts(values: pa.Array) -> np.ndarray:
    wide = pa.types.is_large_string(values.type) or pa.types.is_large_binary(values.type)
    _, offset_buffer, data = values.buffers()
    offsets = np.frombuffer(offset_buffer, dtype=np.int64 if wide else np.int32)
    offsets = offsets[values.offset : values.offset + len(values) + 1].astype(np.int64)
    # Eight more bytes, so that the last text can be read in whole words.
    first, last = int(offsets[0]), int(offsets[-1])
    text = np.zeros(last - first + _WORD_BYTES, dtype=np.uint8)
    if last > first:
        text[: last - first] = np.frombuffer(data, dtype=np.uint8)[first:last]
    words = np.ndarray((last - first + 1,), dtype="<u8", buffer=text.data, strides=(1,))
    starts, lengths = offsets[:-1] - first, np.diff(offsets)
    found = mixed(lengths.astype(np.uint64) ^ _SEED)
    short = lengths <= _WORD_BYTES * _MAX_WORDS
    for word in range(_MAX_WORDS):
        rows = np.flatnonzero((lengths > word * _WORD_BYTES) & short)
        if not len(rows):
            break
        left = lengths[rows] - word * _WORD_BYTES
        piece = words[starts[rows] + word * _WORD_BYTES]
        unused = np.uint64(8) * np.maximum(_WORD_BYTES - left, 0).astype(np.uint64)
        piece = (piece << unused) >> unused
        found[rows] = mixed(found[rows] ^ piece)
    for row in np.flatnonzero(~short):
        found[row] = xxhash.xxh3_64_intdigest(text[starts[row] : starts[row] + lengths[row]].tobytes())
    return found
