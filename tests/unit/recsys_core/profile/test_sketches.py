"""Each sketch against the exact answer, within the error that it promises."""

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from recsys_core.profile.hashing import hashes
from recsys_core.profile.sketches import Distinct, Frequent, Moments, Quantiles, _largest, mixed


@pytest.mark.parametrize("number", [0, 1, 10, 1_000, 20_000, 300_000])
def test_distinct_is_within_four_standard_errors(number: int):
    sketch = Distinct()
    hashed = mixed(np.arange(number, dtype=np.uint64))
    sketch.add(hashed)
    sketch.add(hashed[: number // 2])
    assert abs(sketch.estimate() - number) <= 4 * Distinct.RELATIVE_ERROR * number


def test_quantiles_keep_the_promised_rank():
    rng = np.random.default_rng(1)
    values = rng.lognormal(size=40_000)
    sketch = Quantiles(buffer_values=256)
    for part in np.array_split(values, 37):
        sketch.add(np.sort(part))
    kept, weights = sketch.weighted()
    assert weights.sum() == sketch.count == len(values)
    assert len(kept) < 4_000
    assert 0 < sketch.rank_error < 0.05 * len(values)
    below = np.cumsum(weights)
    for level in (0.01, 0.25, 0.5, 0.9, 0.999):
        found = kept[np.searchsorted(below, level * len(values))]
        rank = np.count_nonzero(values <= found)
        assert abs(rank - level * len(values)) <= sketch.rank_error + weights.max()


@given(st.lists(st.integers(0, 1_500), min_size=1, max_size=40), st.data())
def test_the_largest_counts_are_found(counts: list[int], data: st.DataObject):
    number = data.draw(st.integers(1, len(counts)))
    assert _largest(np.array(counts), number) == sorted(counts, reverse=True)[number - 1]


def test_counted_values_are_those_values_again_and_again():
    sketch = Quantiles()
    sketch.add_counted(np.array([5, 7]), np.array([3, 4]))
    kept, weights = sketch.weighted()
    # 3 is 1 + 2, and 4 is one value of level 2.
    assert kept.tolist() == [5, 5, 7]
    assert weights.tolist() == [1, 2, 4]


def test_frequent_by_hand():
    sketch = Frequent(num_keys=2)
    sketch.add(np.array([1, 2, 3]), np.array([5, 3, 1]))
    # Three keys for two places: the least count, 1, goes off all.
    assert (sketch.keys.tolist(), sketch.counts.tolist(), sketch.error) == ([1, 2], [4, 2], 1)
    sketch.add(np.array([3]), np.array([4]))
    assert (sketch.keys.tolist(), sketch.counts.tolist(), sketch.error) == ([1, 3], [2, 2], 3)


@given(st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=40), min_size=1, max_size=8))
def test_frequent_never_says_too_much_and_too_little_by_its_error_at_most(parts: list[list[int]]):
    sketch = Frequent(num_keys=5)
    for part in parts:
        sketch.add(*np.unique(part, return_counts=True))
    everything = np.concatenate(parts)
    assert sketch.error <= len(everything) / 6
    found = dict(zip(sketch.keys.tolist(), sketch.counts.tolist(), strict=True))
    for value, count in zip(*np.unique(everything, return_counts=True), strict=True):
        assert count - sketch.error <= found.get(int(value), 0) <= count


@given(st.lists(st.lists(st.floats(-1e6, 1e6), max_size=20), min_size=1, max_size=6))
def test_moments_of_parts_are_those_of_the_whole(parts: list[list[float]]):
    moments = Moments()
    for part in parts:
        moments.add(np.array(part, dtype=np.float64))
    whole = np.concatenate([np.array(part, dtype=np.float64) for part in parts])
    assert moments.count == len(whole)
    if len(whole):
        assert moments.mean == pytest.approx(whole.mean(), abs=1e-6)
        assert moments.std == pytest.approx(whole.std(), abs=1e-5)
        assert (moments.minimum, moments.maximum) == (whole.min(), whole.max())
        assert moments.zeros == np.count_nonzero(whole == 0)


@given(st.lists(st.text(max_size=30)))
def test_equal_texts_have_equal_hashes_and_others_have_others(texts: list[str]):
    for kind in (pa.string(), pa.large_string()):
        shifted = pa.array(["before", *texts], kind).slice(1)
        found = hashes(shifted).tolist()
        assert found == [int(hashes(pa.array([text]))[0]) for text in texts]
    assert len(set(found)) == len(set(texts))


def test_hashes_distinguish_lengths_and_long_texts():
    long = "x" * 200
    found = hashes(pa.array(["a", "a\0", "", long, long + "y"])).tolist()
    assert len(set(found)) == 5
    assert found[3] == xxhash.xxh3_64_intdigest(long.encode())
    assert hashes(pa.array([0.0])) == hashes(pa.array([-0.0]))
    assert hashes(pa.array([3, -1])).tolist() == mixed(np.array([3, 2**64 - 1], dtype=np.uint64)).tolist()
