"""xxh3, after the reference implementation's xxhash.h: XXH3_64bits with its default secret."""

from collections.abc import Callable

import numpy as np
import xxhash

from recsys_core.features.hashing.texts import Texts, by_class, rotate_left, u64


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
    h ^= rotate_left(h, 49) ^ rotate_left(h, 24)
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


def xxh3(texts: Texts) -> np.ndarray:
    """uint64 [N]: the hash of each text."""
    middle = [_xxh3_17_to_128(pairs) for pairs in (1, 2, 3, 4)]
    return by_class(
        texts,
        [0, 3, 8, 16, 32, 64, 96, 128, 1 << 60],
        [_xxh3_0, _xxh3_1_to_3, _xxh3_4_to_8, _xxh3_9_to_16, *middle, _one_by_one],
    )
