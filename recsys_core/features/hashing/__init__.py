"""64-bit hashes of many texts at once: xxh3, FarmHash's fingerprint64, and the first half of MurmurHash3's x64_128.

All have seed 0 and give bit for bit what their published C and C++ give. Texts of one length class are hashed together,
each step over all of them; 8 bytes are loaded from any address through a strided view of the buffer. Texts longer than
240 bytes (xxh3) are rare enough to be hashed one by one.

Legend: N texts, `at` int64 [N] where each begins in the bytes, `size` int64 [N] its length in bytes.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import pyarrow as pa

from recsys_core.features.hashing.farm import farm
from recsys_core.features.hashing.murmur3 import murmur3
from recsys_core.features.hashing.texts import Texts, texts_of, u64
from recsys_core.features.hashing.xxh3 import xxh3

Name = Literal["xxh3", "farm", "murmur3"]
# Large enough that a step costs more than its call, small enough that its arrays stay in the cache.
_BLOCK_ROWS = 16_384
# From how many values it is guessed whether to find the distinct ones first, and up to which share that pays.
_LOOK, _FEW = 4_096, 0.1


def hashed(values: pa.Array, name: Name) -> np.ndarray:
    """uint64 [N]: the hash of each text in UTF-8; of an integer, of its decimal text.

    `values` is an int64, string or binary array without nulls. Every distinct value is hashed once where a look at the
    first ones says that few are distinct.
    """
    return _hashed(values, name, None)


def buckets(values: pa.Array, name: Name, divisor: int) -> np.ndarray:
    """int64 [N]: `hashed` modulo `divisor`, worked out while the hashes are in the cache."""
    return _hashed(values, name, divisor).view(np.int64)


def buckets_of_each(columns: Sequence[pa.Array], name: Name, divisors: Sequence[int]) -> list[np.ndarray]:
    """`buckets` of several columns, hashed in one call: of short columns the calls cost more than the hashes."""
    texts = [column.cast(pa.string()) if pa.types.is_integer(column.type) else column for column in columns]
    hashes = _each_hashed(pa.concat_arrays(texts), name, None)
    parts = np.split(hashes, np.cumsum([len(column) for column in columns])[:-1])
    return [remainder(part, divisor) for part, divisor in zip(parts, divisors, strict=True)]


def _repeats(values: pa.Array) -> bool:
    """Guess from the first values whether few are distinct: n draws from D have about n * n / (2 * D) doubles."""
    if len(values) <= 2 * _LOOK or _even(values):
        return False
    doubles = _LOOK - len(values[:_LOOK].unique())
    return 2 * doubles * _FEW * len(values) > _LOOK * _LOOK


def _even(values: pa.Array) -> bool:
    """Guess whether all texts are of one size, whose hashes cost less than finding the distinct ones."""
    if not pa.types.is_string(values.type):
        return False
    edges = np.frombuffer(values.buffers()[1], np.int32)[values.offset : values.offset + len(values) + 1]
    return int(edges[-1] - edges[0]) == len(values) * int(edges[1] - edges[0])


def remainder(hashes: np.ndarray, divisor: int) -> np.ndarray:
    """int64 [N]: uint64 hashes modulo `divisor`; numpy divides by a constant five times as fast as it takes %."""
    return _remainder(hashes, divisor).view(np.int64)


def _remainder(hashes: np.ndarray, divisor: int) -> np.ndarray:
    number = u64(divisor)
    if divisor & (divisor - 1) == 0:
        return hashes & (number - u64(1))
    return hashes - hashes // number * number


def _hashed(values: pa.Array, name: Name, divisor: int | None) -> np.ndarray:
    if _repeats(values):
        distinct = values.dictionary_encode()
        return _each_hashed(distinct.dictionary, name, divisor)[distinct.indices.to_numpy(zero_copy_only=False)]
    return _each_hashed(values, name, divisor)


def _each_hashed(values: pa.Array, name: Name, divisor: int | None) -> np.ndarray:
    if pa.types.is_integer(values.type):
        values = values.cast(pa.string())
    _, offset_buffer, data = values.buffers()
    offsets = np.frombuffer(offset_buffer, np.int32)[values.offset : values.offset + len(values) + 1]
    content = np.frombuffer(data, np.uint8) if data else np.empty(0, np.uint8)
    found = np.empty(len(values), np.uint64)
    function = _FUNCTIONS[name]
    # Block by block from the bytes to the result, for what a block needs fits into the cache.
    for start in range(0, len(found), _BLOCK_ROWS):
        hashes = function(texts_of(offsets[start : start + _BLOCK_ROWS + 1], content))
        found[start : start + _BLOCK_ROWS] = hashes if divisor is None else _remainder(hashes, divisor)
    return found


_FUNCTIONS: dict[Name, Callable[[Texts], np.ndarray]] = {"xxh3": xxh3, "farm": farm, "murmur3": murmur3}
