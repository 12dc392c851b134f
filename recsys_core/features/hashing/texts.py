"""The bytes of many texts, and the steps that the hash functions share."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

# Bytes after the last text, which loads beyond a text's end may read (and mask).
_MARGIN_BYTES = 16


def u64(value: int) -> np.uint64:
    """Return a constant that numpy's integers of 64 bits wrap around with."""
    return np.uint64(value & 0xFFFFFFFFFFFFFFFF)


class Texts(NamedTuple):
    """The bytes of N texts. `words` is uint64 at every address, `halves` uint32; little-endian.

    `stride` is the size of texts that lie one after another and are all of one size, else 0. They are loaded by a view
    with that stride, ten times as fast as numpy gathers what is not aligned, and `at` and `size` are the first's only,
    which broadcasts: what depends on the size alone is worked out once.
    """

    content: np.ndarray
    words: np.ndarray
    halves: np.ndarray
    at: np.ndarray
    size: np.ndarray
    num_texts: int
    stride: int = 0

    def pick(self, rows: np.ndarray | slice) -> "Texts":
        """Return some of the texts, which are of several sizes."""
        at = self.at[rows]
        return Texts(self.content, self.words, self.halves, at, self.size[rows], len(at))

    def each(self) -> "Texts":
        """Return the same texts with where each begins and its size, whether or not they are all of one."""
        if not self.stride:
            return self
        at = self.at + self.stride * np.arange(self.num_texts)
        return self._replace(at=at, size=np.repeat(self.size, self.num_texts), stride=0)

    def word(self, offset: int | np.ndarray) -> np.ndarray:
        """uint64 [N]: 8 bytes from `offset` bytes behind each text's beginning."""
        return self._load(self.words, offset)

    def half(self, offset: int | np.ndarray) -> np.ndarray:
        """uint64 [N]: 4 bytes from `offset` bytes behind each text's beginning."""
        return self._load(self.halves, offset)

    def byte(self, offset: int | np.ndarray) -> np.ndarray:
        """uint64 [N]: the byte `offset` bytes behind each text's beginning."""
        return self._load(self.content, offset)

    def _load(self, view: np.ndarray, offset: int | np.ndarray) -> np.ndarray:
        if not self.stride:
            return view[self.at + offset].astype(np.uint64, copy=False)
        first = int(self.at[0]) + int(offset if isinstance(offset, int) else offset[0])
        return view[first : first + self.stride * (self.num_texts - 1) + 1 : self.stride].astype(np.uint64)


def texts_of(offsets: np.ndarray, data: np.ndarray) -> Texts:
    """Return the N texts that int32 `offsets` [N + 1] part the bytes `data` into, as Arrow lays them out."""
    first, last = int(offsets[0]), int(offsets[-1])
    content = np.empty(last - first + _MARGIN_BYTES, np.uint8)
    content[: last - first] = data[first:last]
    content[last - first :] = 0
    words = np.ndarray(len(content) - 7, np.uint64, content, strides=(1,))
    halves = np.ndarray(len(content) - 3, np.uint32, content, strides=(1,))
    size = np.diff(offsets)
    if size[0] > 0 and (size == size[0]).all():
        one = size[:1].astype(np.int64)
        return Texts(content, words, halves, np.zeros(1, np.int64), one, len(size), int(size[0]))
    return Texts(content, words, halves, offsets[:-1].astype(np.int64) - first, size.astype(np.int64), len(size))


def by_class(texts: Texts, limits: list[int], functions: list[Callable[[Texts], np.ndarray]]) -> np.ndarray:
    """Hash the texts of up to limits[i] bytes, and of more than limits[i - 1], with functions[i]."""
    lowest, highest = int(texts.size.min(initial=1 << 60)), int(texts.size.max(initial=0))
    found = np.empty(texts.num_texts, np.uint64)
    below = -1
    for limit, function in zip(limits, functions, strict=True):
        if lowest <= limit and highest > below:
            if below < lowest and highest <= limit:
                return function(texts)
            rows = np.flatnonzero((texts.size > below) & (texts.size <= limit))
            if len(rows):
                found[rows] = function(texts.pick(rows))
        below = limit
    return found


def rotate_left(x: np.ndarray, bits: int) -> np.ndarray:
    """uint64 [N]: each number with its bits rotated to the left."""
    rotated = x << u64(bits)
    rotated |= x >> u64(64 - bits)
    return rotated


def rotate_right(x: np.ndarray, bits: int) -> np.ndarray:
    """uint64 [N]: each number with its bits rotated to the right."""
    return rotate_left(x, 64 - bits)
