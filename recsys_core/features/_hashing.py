"""64-bit hashes of many texts at once: xxh3, FarmHash's fingerprint64, and the first half of MurmurHash3's x64_128.

All have seed 0 and give bit for bit what their published C and C++ give. Texts of one length class are hashed together,
each step over all of them; 8 bytes are loaded from any address through a strided view of the buffer. Texts longer than
240 bytes (xxh3) are rare enough to be hashed one by one.

Legend: N texts, `at` int64 [N] where each begins in the bytes, `size` int64 [N] its length in bytes.
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
import xxhash

Name = Literal["xxh3", "farm", "murmur3"]

# Large enough that a step costs more than its call, small enough that its arrays stay in the cache.
_BLOCK_ROWS = 16_384
# How many values tell whether it pays to find the distinct ones first, and up to which share of all it does.
_LOOK, _FEW = 4_096, 0.1
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
        hashes = function(_texts(offsets[start : start + _BLOCK_ROWS + 1], content))
        found[start : start + _BLOCK_ROWS] = hashes if divisor is None else _remainder(hashes, divisor)
    return found


def _texts(offsets: np.ndarray, data: np.ndarray) -> Texts:
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


def _by_class(texts: Texts, limits: list[int], functions: list[Callable[[Texts], np.ndarray]]) -> np.ndarray:
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


def _rotate_left(x: np.ndarray, bits: int) -> np.ndarray:
    rotated = x << u64(bits)
    rotated |= x >> u64(64 - bits)
    return rotated


def _rotate_right(x: np.ndarray, bits: int) -> np.ndarray:
    return _rotate_left(x, 64 - bits)


def _fold(a: np.ndarray, b: np.ndarray | np.uint64) -> np.ndarray:
    """Low half xor high half of the 128-bit product."""
    mask, shift = u64(0xFFFFFFFF), u64(32)
    a_low, a_high, b_low, b_high = a & mask, a >> shift, b & mask, b >> shift
    cross = a_high * b_low
    middle = ((a_low * b_low) >> shift) + (cross & mask) + a_low * b_high
    return (a_high * b_high + (cross >> shift) + (middle >> shift)) ^ (a * b)


# xxh3, after the reference implementation's xxhash.h, XXH3_64bits with its default secret.
_SECRET = bytes.fromhex(
    "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671fcb79e64eccc0e578825ad07dccff7221b8084674f743248e"
    "e03590e6813a264c3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8a8fa763fe39c343ff9dcbbc7c70b4f1d"
    "8a51e04bcdb45931c89f7ec9d9787364"
)
_PRIME64_1, _PRIME64_2 = u64(0x9E3779B185EBCA87), u64(0xC2B2AE3D27D4EB4F)
_PRIME64_3, _PRIME_MX1, _PRIME_MX2 = u64(0x165667B19E3779F9), u64(0x165667919E3779F9), u64(0x9FB21C651E98DF25)


def _secret(offset: int, size: int = 8) -> int:
    return int.from_bytes(_SECRET[offset : offset + size], "little")


def _avalanche(h: np.ndarray) -> np.ndarray:
    h = (h ^ (h >> u64(37))) * _PRIME_MX1
    return h ^ (h >> u64(32))


def _avalanche64(h: np.ndarray) -> np.ndarray:
    h = (h ^ (h >> u64(33))) * _PRIME64_2
    h = (h ^ (h >> u64(29))) * _PRIME64_3
    return h ^ (h >> u64(32))


def _xxh3_0(texts: Texts) -> np.ndarray:
    return np.full(texts.num_texts, xxhash.xxh3_64_intdigest(b""), np.uint64)


def _xxh3_1_to_3(texts: Texts) -> np.ndarray:
    first, middle, last = texts.byte(0), texts.byte(texts.size >> 1), texts.byte(texts.size - 1)
    joined = (first << u64(16)) | (middle << u64(24)) | last | (texts.size.astype(np.uint64) << u64(8))
    return _avalanche64(joined ^ u64(_secret(0, 4) ^ _secret(4, 4)))


def _xxh3_4_to_8(texts: Texts) -> np.ndarray:
    h = texts.half(texts.size - 4) + (texts.half(0) << u64(32))
    h ^= u64(_secret(8) ^ _secret(16))
    h ^= _rotate_left(h, 49) ^ _rotate_left(h, 24)
    h *= _PRIME_MX2
    h ^= (h >> u64(35)) + texts.size.astype(np.uint64)
    h *= _PRIME_MX2
    return h ^ (h >> u64(28))


def _xxh3_9_to_16(texts: Texts) -> np.ndarray:
    low = texts.word(0) ^ u64(_secret(24) ^ _secret(32))
    high = texts.word(texts.size - 8) ^ u64(_secret(40) ^ _secret(48))
    return _avalanche(texts.size.astype(np.uint64) + low.byteswap() + high + _fold(low, high))


def _mixed(texts: Texts, offset: int | np.ndarray, secret: int) -> np.ndarray:
    return _fold(texts.word(offset) ^ u64(_secret(secret)), texts.word(offset + 8) ^ u64(_secret(secret + 8)))


def _xxh3_17_to_128(pairs: int) -> Callable[[Texts], np.ndarray]:
    """Return the hash of texts of up to 32 * `pairs` bytes, which is mixed from both ends."""

    def function(texts: Texts) -> np.ndarray:
        h = texts.size.astype(np.uint64) * _PRIME64_1
        for pair in range(pairs):
            h = h + _mixed(texts, 16 * pair, 32 * pair)
            h += _mixed(texts, texts.size - 16 * (pair + 1), 32 * pair + 16)
        return _avalanche(h)

    return function


def _one_by_one(texts: Texts) -> np.ndarray:
    """Let the reference implementation hash long texts."""
    texts = texts.each()
    content = texts.content
    spans = zip(texts.at.tolist(), texts.size.tolist(), strict=True)
    digests = (xxhash.xxh3_64_intdigest(content[at : at + size].data) for at, size in spans)
    return np.fromiter(digests, np.uint64, texts.num_texts)


def _xxh3(texts: Texts) -> np.ndarray:
    middle = [_xxh3_17_to_128(pairs) for pairs in (1, 2, 3, 4)]
    return _by_class(
        texts,
        [0, 3, 8, 16, 32, 64, 96, 128, 1 << 60],
        [_xxh3_0, _xxh3_1_to_3, _xxh3_4_to_8, _xxh3_9_to_16, *middle, _one_by_one],
    )


# FarmHash's fingerprint64, after farmhash.cc, namespace farmhashna.
_K0, _K1, _K2 = u64(0xC3A5C85C97CB3127), u64(0xB492B66FBE98F273), u64(0x9AE16A3B2F90404F)


def _shift_mix(x: np.ndarray) -> np.ndarray:
    return x ^ (x >> u64(47))


def _hash_16(u: np.ndarray, v: np.ndarray, multiplier: np.ndarray | np.uint64) -> np.ndarray:
    a = _shift_mix((u ^ v) * multiplier)
    return _shift_mix((v ^ a) * multiplier) * multiplier


def _multiplier(texts: Texts) -> np.ndarray:
    return (texts.size.astype(np.uint64) << u64(1)) + _K2


def _farm_0(texts: Texts) -> np.ndarray:
    return np.full(texts.num_texts, _K2)


def _farm_1_to_3(texts: Texts) -> np.ndarray:
    y = texts.byte(0) + (texts.byte(texts.size >> 1) << u64(8))
    z = texts.size.astype(np.uint64) + (texts.byte(texts.size - 1) << u64(2))
    return _shift_mix(y * _K2 ^ z * _K0) * _K2


def _farm_4_to_7(texts: Texts) -> np.ndarray:
    return _hash_16(
        texts.size.astype(np.uint64) + (texts.half(0) << u64(3)), texts.half(texts.size - 4), _multiplier(texts)
    )


def _farm_8_to_16(texts: Texts) -> np.ndarray:
    multiplier, a, b = _multiplier(texts), texts.word(0) + _K2, texts.word(texts.size - 8)
    return _hash_16(_rotate_right(b, 37) * multiplier + a, (_rotate_right(a, 25) + b) * multiplier, multiplier)


def _farm_17_to_32(texts: Texts) -> np.ndarray:
    multiplier, a, b = _multiplier(texts), texts.word(0) * _K1, texts.word(8)
    c, d = texts.word(texts.size - 8) * multiplier, texts.word(texts.size - 16) * _K2
    return _hash_16(_rotate_right(a + b, 43) + _rotate_right(c, 30) + d, a + _rotate_right(b + _K2, 18) + c, multiplier)


def _farm_33_to_64(texts: Texts) -> np.ndarray:
    multiplier, a, b = _multiplier(texts), texts.word(0) * _K2, texts.word(8)
    c, d = texts.word(texts.size - 8) * multiplier, texts.word(texts.size - 16) * _K2
    y = _rotate_right(a + b, 43) + _rotate_right(c, 30) + d
    z = _hash_16(y, a + _rotate_right(b + _K2, 18) + c, multiplier)
    e, f = texts.word(16) * multiplier, texts.word(24)
    g, h = (y + texts.word(texts.size - 32)) * multiplier, (z + texts.word(texts.size - 24)) * multiplier
    return _hash_16(_rotate_right(e + f, 43) + _rotate_right(g, 30) + h, e + _rotate_right(f + a, 18) + g, multiplier)


_Pair = tuple[np.ndarray, np.ndarray]


def _weak_hash(texts: Texts, offset: int | np.ndarray, a: np.ndarray, b: np.ndarray) -> _Pair:
    """32 bytes with two seeds."""
    w, x, y, z = (texts.word(offset + 8 * i) for i in range(4))
    a = a + w
    b = _rotate_right(b + a + z, 21)
    total = a + x + y
    return total + z, b + _rotate_right(total, 44) + a


def _farm_long(texts: Texts) -> np.ndarray:
    """More than 64 bytes: 64 at a time, and the last 64 once more. The longest first, so that the rest is a prefix."""
    texts = texts.each()
    order = np.argsort(-texts.size, kind="stable")
    ordered = texts.pick(order)
    num_rows = len(order)
    x, y = ordered.word(0) + u64(81 * int(_K2)), np.full(num_rows, u64(81 * int(_K1) + 113))
    z = _shift_mix(y * _K2 + u64(113)) * _K2
    v0, v1, w0, w1 = (np.zeros(num_rows, np.uint64) for _ in range(4))
    rounds = (ordered.size - 1) // 64
    for number in range(int(rounds.max(initial=0))):
        rows = slice(0, int(np.searchsorted(-rounds, -number, side="left")))
        part, at = ordered.pick(rows), 64 * number
        nx = _rotate_right(x[rows] + y[rows] + v0[rows] + part.word(at + 8), 37) * _K1
        ny = _rotate_right(y[rows] + v1[rows] + part.word(at + 48), 42) * _K1
        nx ^= w1[rows]
        ny += v0[rows] + part.word(at + 40)
        nz = _rotate_right(z[rows] + w0[rows], 33) * _K1
        v0[rows], v1[rows] = _weak_hash(part, at, v1[rows] * _K1, nx + w0[rows])
        w0[rows], w1[rows] = _weak_hash(part, at + 32, nz + w1[rows], ny + part.word(at + 16))
        x[rows], y[rows], z[rows] = nz, ny, nx
    multiplier = _K1 + ((z & u64(0xFF)) << u64(1))
    at = ordered.size - 64
    w0 += ((ordered.size - 1) & 63).astype(np.uint64)
    v0 += w0
    w0 += v0
    x = _rotate_right(x + y + v0 + ordered.word(at + 8), 37) * multiplier
    y = _rotate_right(y + v1 + ordered.word(at + 48), 42) * multiplier
    x ^= w1 * u64(9)
    y += v0 * u64(9) + ordered.word(at + 40)
    z = _rotate_right(z + w0, 33) * multiplier
    v0, v1 = _weak_hash(ordered, at, v1 * multiplier, x + w0)
    w0, w1 = _weak_hash(ordered, at + 32, z + w1, y + ordered.word(at + 16))
    z, x = x, z
    found = np.empty(num_rows, np.uint64)
    found[order] = _hash_16(
        _hash_16(v0, w0, multiplier) + _shift_mix(y) * _K0 + z, _hash_16(v1, w1, multiplier) + x, multiplier
    )
    return found


def _farm(texts: Texts) -> np.ndarray:
    return _by_class(
        texts,
        [0, 3, 7, 16, 32, 64, 1 << 60],
        [_farm_0, _farm_1_to_3, _farm_4_to_7, _farm_8_to_16, _farm_17_to_32, _farm_33_to_64, _farm_long],
    )


# MurmurHash3_x64_128, after MurmurHash3.cpp.
_C1, _C2 = u64(0x87C37B91114253D5), u64(0x4CF5AD432745937F)


def _murmur_final(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> u64(33))) * u64(0xFF51AFD7ED558CCD)
    x = (x ^ (x >> u64(33))) * u64(0xC4CEB9FE1A85EC53)
    return x ^ (x >> u64(33))


def _mix_1(k: np.ndarray) -> np.ndarray:
    return _rotate_left(k * _C1, 31) * _C2


def _mix_2(k: np.ndarray) -> np.ndarray:
    return _rotate_left(k * _C2, 33) * _C1


def _murmur_short(texts: Texts) -> np.ndarray:
    nothing = np.zeros(texts.num_texts, np.uint64)
    return _murmur_end(texts, nothing, nothing, 0)


def _murmur_end(texts: Texts, h1: np.ndarray, h2: np.ndarray, at: int | np.ndarray) -> np.ndarray:
    """Take in the last 0 to 15 bytes, from `at`, and finish."""
    rest = texts.size - at
    # A shift by 64 bits is not defined, so no byte at all is a mask of its own.
    low = texts.word(at) & np.where(rest > 0, u64(-1) >> ((8 - np.clip(rest, 1, 8)) * 8).astype(np.uint64), u64(0))
    beyond = np.minimum(at + 8, texts.size)
    bits = ((8 - np.clip(rest - 8, 1, 8)) * 8).astype(np.uint64)
    high = texts.word(beyond) & np.where(rest > 8, u64(-1) >> bits, u64(0))
    h1, h2 = h1 ^ _mix_1(low), h2 ^ _mix_2(high)
    size = texts.size.astype(np.uint64)
    h1, h2 = h1 ^ size, h2 ^ size
    h1 = h1 + h2
    h2 = h2 + h1
    h1, h2 = _murmur_final(h1), _murmur_final(h2)
    return h1 + h2


def _murmur_long(texts: Texts) -> np.ndarray:
    """16 bytes or more: 16 at a time. The longest first, so that the rest is a prefix."""
    texts = texts.each()
    order = np.argsort(-texts.size, kind="stable")
    ordered = texts.pick(order)
    h1, h2 = np.zeros(len(order), np.uint64), np.zeros(len(order), np.uint64)
    rounds = ordered.size // 16
    for number in range(int(rounds.max(initial=0))):
        rows = slice(0, int(np.searchsorted(-rounds, -number, side="left")))
        part = ordered.pick(rows)
        n1 = _rotate_left(h1[rows] ^ _mix_1(part.word(16 * number)), 27) + h2[rows]
        h1[rows] = n1 * u64(5) + u64(0x52DCE729)
        n2 = _rotate_left(h2[rows] ^ _mix_2(part.word(16 * number + 8)), 31) + h1[rows]
        h2[rows] = n2 * u64(5) + u64(0x38495AB5)
    found = np.empty(len(order), np.uint64)
    found[order] = _murmur_end(ordered, h1, h2, rounds * 16)
    return found


def _murmur3(texts: Texts) -> np.ndarray:
    return _by_class(texts, [15, 1 << 60], [_murmur_short, _murmur_long])


_FUNCTIONS: dict[Name, Callable[[Texts], np.ndarray]] = {"xxh3": _xxh3, "farm": _farm, "murmur3": _murmur3}
