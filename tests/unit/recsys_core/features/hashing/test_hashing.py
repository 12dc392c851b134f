"""Hashes of many texts at once against the published functions, one text at a time."""

from collections.abc import Callable

import farmhash
import mmh3
import numpy as np
import pyarrow as pa
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from recsys_core.features import hashing

PUBLISHED: dict[hashing.Name, Callable[[bytes], int]] = {
    "xxh3": xxhash.xxh3_64_intdigest,
    "farm": farmhash.fingerprint64,
    "murmur3": lambda text: mmh3.hash64(text, signed=False)[0],
}

pytestmark = pytest.mark.parametrize("name", PUBLISHED)


def test_known_values(name: hashing.Name) -> None:
    # The empty text, and 'hello' as the functions' own projects give it.
    known = {
        "xxh3": (0x2D06800538D394C2, 0x9555E8555C62DCFD),
        "farm": (0x9AE16A3B2F90404F, 0xB48BE5A931380CE8),
        "murmur3": (0, 0xCBD8A7B341BD9B02),
    }
    assert tuple(hashing.hashed(pa.array(["", "hello"]), name).tolist()) == known[name]


def test_every_length_is_the_published_hash(name: hashing.Name) -> None:
    rng = np.random.default_rng(0)
    texts = [rng.bytes(int(size)) for size in rng.permutation(np.repeat(np.arange(300), 2))] + [rng.bytes(5_000)]
    expected = [PUBLISHED[name](text) for text in texts]
    assert hashing.hashed(pa.array(texts, pa.binary()), name).tolist() == expected
    # Each alone, where all of a block are of one size.
    assert [int(hashing.hashed(pa.array([text], pa.binary()), name)[0]) for text in texts] == expected


@given(texts=st.lists(st.text(max_size=40)), start=st.integers(0, 5))
def test_unicode_and_slices(name: hashing.Name, texts: list[str], start: int) -> None:
    expected = [PUBLISHED[name](text.encode()) for text in texts[start:]]
    assert hashing.hashed(pa.array(texts, pa.string())[start:], name).tolist() == expected


@pytest.mark.parametrize("distinct", [50, 10**9])
def test_many_values_few_or_many_distinct(name: hashing.Name, distinct: int) -> None:
    numbers = np.random.default_rng(1).integers(-distinct, distinct, 20_000)
    expected = [PUBLISHED[name](str(number).encode()) for number in numbers.tolist()]
    assert hashing.hashed(pa.array(numbers), name).tolist() == expected


@pytest.mark.parametrize("divisor", [1, 2, 7, 1 << 20, 10**12 + 39])
def test_remainder(name: hashing.Name, divisor: int) -> None:
    hashes = np.array([0, 1, 2**64 - 1, 2**63, 12345678901234567890], np.uint64)
    assert hashing.remainder(hashes, divisor).tolist() == [h % divisor for h in hashes.tolist()]


@pytest.mark.parametrize("size", [1, 3, 4, 7, 8, 9, 16, 17, 33, 65, 130, 300])
def test_many_texts_of_one_size(name: hashing.Name, size: int) -> None:
    texts = [np.random.default_rng((size, row)).bytes(size) for row in range(5)]
    column = pa.array([b"before", *texts], pa.binary())[1:]
    expected = [PUBLISHED[name](text) for text in texts]
    assert hashing.hashed(column, name).tolist() == expected
    for divisor in (1 << 20, 1_000_003):
        assert hashing.buckets(column, name, divisor).tolist() == [h % divisor for h in expected]


@given(columns=st.lists(st.lists(st.text(max_size=9) | st.integers(-9, 10**12)), min_size=1, max_size=4))
def test_columns_hashed_in_one_call(name: hashing.Name, columns: list[list[str | int]]) -> None:
    texts = [[one for one in column if isinstance(one, str)] for column in columns]
    numbers = [[one for one in column if isinstance(one, int)] for column in columns]
    arrays = [*(pa.array(column, pa.string()) for column in texts), *(pa.array(n, pa.int64()) for n in numbers)]
    sizes = [7 + place for place in range(len(arrays))]
    found = hashing.buckets_of_each(arrays, name, sizes)
    for array, size, rows in zip(arrays, sizes, found, strict=True):
        assert rows.tolist() == [PUBLISHED[name](str(one).encode()) % size for one in array.to_pylist()]
