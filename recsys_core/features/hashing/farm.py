"""FarmHash's fingerprint64, after farmhash.cc, namespace farmhashna."""

import numpy as np

from recsys_core.features.hashing.texts import Texts, by_class, rotate_right, u64

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
    return _hash_16(rotate_right(b, 37) * multiplier + a, (rotate_right(a, 25) + b) * multiplier, multiplier)


def _farm_17_to_32(texts: Texts) -> np.ndarray:
    multiplier, a, b = _multiplier(texts), texts.word(0) * _K1, texts.word(8)
    c, d = texts.word(texts.size - 8) * multiplier, texts.word(texts.size - 16) * _K2
    return _hash_16(rotate_right(a + b, 43) + rotate_right(c, 30) + d, a + rotate_right(b + _K2, 18) + c, multiplier)


def _farm_33_to_64(texts: Texts) -> np.ndarray:
    multiplier, a, b = _multiplier(texts), texts.word(0) * _K2, texts.word(8)
    c, d = texts.word(texts.size - 8) * multiplier, texts.word(texts.size - 16) * _K2
    y = rotate_right(a + b, 43) + rotate_right(c, 30) + d
    z = _hash_16(y, a + rotate_right(b + _K2, 18) + c, multiplier)
    e, f = texts.word(16) * multiplier, texts.word(24)
    g, h = (y + texts.word(texts.size - 32)) * multiplier, (z + texts.word(texts.size - 24)) * multiplier
    return _hash_16(rotate_right(e + f, 43) + rotate_right(g, 30) + h, e + rotate_right(f + a, 18) + g, multiplier)


_Pair = tuple[np.ndarray, np.ndarray]


def _weak_hash(texts: Texts, offset: int | np.ndarray, a: np.ndarray, b: np.ndarray) -> _Pair:
    """32 bytes with two seeds."""
    w, x, y, z = (texts.word(offset + 8 * i) for i in range(4))
    a = a + w
    b = rotate_right(b + a + z, 21)
    total = a + x + y
    return total + z, b + rotate_right(total, 44) + a


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
        nx = rotate_right(x[rows] + y[rows] + v0[rows] + part.word(at + 8), 37) * _K1
        ny = rotate_right(y[rows] + v1[rows] + part.word(at + 48), 42) * _K1
        nx ^= w1[rows]
        ny += v0[rows] + part.word(at + 40)
        nz = rotate_right(z[rows] + w0[rows], 33) * _K1
        v0[rows], v1[rows] = _weak_hash(part, at, v1[rows] * _K1, nx + w0[rows])
        w0[rows], w1[rows] = _weak_hash(part, at + 32, nz + w1[rows], ny + part.word(at + 16))
        x[rows], y[rows], z[rows] = nz, ny, nx
    multiplier = _K1 + ((z & u64(0xFF)) << u64(1))
    at = ordered.size - 64
    w0 += ((ordered.size - 1) & 63).astype(np.uint64)
    v0 += w0
    w0 += v0
    x = rotate_right(x + y + v0 + ordered.word(at + 8), 37) * multiplier
    y = rotate_right(y + v1 + ordered.word(at + 48), 42) * multiplier
    x ^= w1 * u64(9)
    y += v0 * u64(9) + ordered.word(at + 40)
    z = rotate_right(z + w0, 33) * multiplier
    v0, v1 = _weak_hash(ordered, at, v1 * multiplier, x + w0)
    w0, w1 = _weak_hash(ordered, at + 32, z + w1, y + ordered.word(at + 16))
    z, x = x, z
    found = np.empty(num_rows, np.uint64)
    found[order] = _hash_16(
        _hash_16(v0, w0, multiplier) + _shift_mix(y) * _K0 + z, _hash_16(v1, w1, multiplier) + x, multiplier
    )
    return found


def farm(texts: Texts) -> np.ndarray:
    """uint64 [N]: the hash of each text."""
    return by_class(
        texts,
        [0, 3, 7, 16, 32, 64, 1 << 60],
        [_farm_0, _farm_1_to_3, _farm_4_to_7, _farm_8_to_16, _farm_17_to_32, _farm_33_to_64, _farm_long],
    )
