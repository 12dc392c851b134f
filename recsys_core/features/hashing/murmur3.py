"""MurmurHash3_x64_128, after MurmurHash3.cpp."""

import numpy as np

from recsys_core.features.hashing.texts import Texts, by_class, rotate_left, u64

# MurmurHash3_x64_128, after MurmurHash3.cpp.
_C1, _C2 = u64(0x87C37B91114253D5), u64(0x4CF5AD432745937F)


def _murmur_final(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> u64(33))) * u64(0xFF51AFD7ED558CCD)
    x = (x ^ (x >> u64(33))) * u64(0xC4CEB9FE1A85EC53)
    return x ^ (x >> u64(33))


def _mix_1(k: np.ndarray) -> np.ndarray:
    return rotate_left(k * _C1, 31) * _C2


def _mix_2(k: np.ndarray) -> np.ndarray:
    return rotate_left(k * _C2, 33) * _C1


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
        n1 = rotate_left(h1[rows] ^ _mix_1(part.word(16 * number)), 27) + h2[rows]
        h1[rows] = n1 * u64(5) + u64(0x52DCE729)
        n2 = rotate_left(h2[rows] ^ _mix_2(part.word(16 * number + 8)), 31) + h1[rows]
        h2[rows] = n2 * u64(5) + u64(0x38495AB5)
    found = np.empty(len(order), np.uint64)
    found[order] = _murmur_end(ordered, h1, h2, rounds * 16)
    return found


def murmur3(texts: Texts) -> np.ndarray:
    """uint64 [N]: the hash of each text."""
    return by_class(texts, [15, 1 << 60], [_murmur_short, _murmur_long])
