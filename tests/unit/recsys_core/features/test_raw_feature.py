"""Raw features: normalisers by hand, buckets, and which columns they refuse."""

from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_core.features import base
from recsys_core.features.raw import Config, Feature


def feature(**keys: Any) -> Feature:
    return Feature(Config(name="f", **keys))


def fitted(column: pa.Array, **keys: Any) -> Feature:
    made = feature(**keys)
    made.observe(column)
    made.settle()
    return made


def numbers(made: Feature, column: pa.Array) -> list[list[float]]:
    result = made.transform(column)
    assert isinstance(result, np.ndarray)
    assert result.dtype == np.float32
    return result.tolist()


@pytest.mark.parametrize(
    "column",
    [
        pa.array([1, None, 3], pa.uint8()),
        pa.array([1, None, 3], pa.float32()),
        pa.array([1, float("nan"), 3]),
        pa.array([Decimal("1.0"), None, Decimal("3.0")]),
        pa.array([[1], None, [3]]),
        pa.array([[1], [], [3]], pa.large_list(pa.int16())),
        pa.array([[1], [None], [3]], pa.list_(pa.float64(), 1)),
    ],
)
def test_takes_numbers_and_fills_what_is_missing(column: pa.Array) -> None:
    assert numbers(feature(fill=-1), column) == [[1], [-1], [3]]


def test_takes_booleans_and_nothing_at_all() -> None:
    assert numbers(feature(), pa.array([True, False, None])) == [[1], [0], [0]]
    assert numbers(feature(dim=2), pa.nulls(2)) == [[0, 0], [0, 0]]
    assert numbers(feature(), pa.array([], pa.float64())) == []


def test_normalisers_by_hand() -> None:
    column = pa.array([2, 4, None, 6])
    spread = (8 / 3) ** 0.5
    assert numbers(fitted(column, normalizer="minmax"), column) == [[0], [0.5], [0], [1]]
    np.testing.assert_allclose(
        numbers(fitted(column, normalizer="zscore", fill=9), column), [[-2 / spread], [0], [9], [2 / spread]]
    )
    np.testing.assert_allclose(numbers(feature(normalizer="log1p"), pa.array([0, 1.5])), [[0], [np.log(2.5)]])


@pytest.mark.parametrize("normalizer", ["zscore", "minmax"])
def test_a_constant_or_empty_column_is_no_division_by_zero(normalizer: str) -> None:
    assert numbers(fitted(pa.array([5, 5]), normalizer=normalizer), pa.array([5, 7])) == [[0], [2]]
    assert numbers(fitted(pa.nulls(2), normalizer=normalizer), pa.array([5])) == [[5]]


@given(
    st.lists(st.lists(st.one_of(st.none(), st.floats(-100, 100)), max_size=6), min_size=1, max_size=4),
    st.sampled_from([0.0, 1e6]),
)
def test_statistics_of_chunks_are_those_of_the_whole(chunks: list[list[float | None]], offset: float) -> None:
    shifted = [[None if x is None else x + offset for x in chunk] for chunk in chunks]
    made = feature(normalizer="zscore")
    for chunk in shifted:
        made.observe(pa.array(chunk, pa.float64()))
        made.settle()
        restored = feature(normalizer="zscore")
        restored.restore(made.state())
        assert restored.state() == made.state()
        made = restored
    whole = np.array([x for chunk in shifted for x in chunk if x is not None])
    state = made.state()
    assert state["count"] == [len(whole)]
    if len(whole):
        np.testing.assert_allclose(state["mean"], whole.mean(), rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(state["squares"], ((whole - whole.mean()) ** 2).sum(), rtol=1e-5, atol=1e-5)
        assert (state["low"], state["high"]) == ([whole.min()], [whole.max()])


def test_lists_of_dim_numbers_are_normalised_apart() -> None:
    column = pa.array([[0, 10], [4, None], None])
    assert numbers(fitted(column, dim=2, normalizer="minmax"), column) == [[0, 0], [1, 0], [0, 0]]


def test_boundaries_make_ids() -> None:
    bucket = feature(boundaries=[0, 10.5])
    assert bucket.dense_dim == 0
    assert bucket.table == "f"
    encoded = bucket.transform(pa.array([-1, 0, 10, None, 11, float("nan")]))
    assert isinstance(encoded, base.Jagged)
    assert (encoded.values.tolist(), encoded.lengths.tolist()) == ([0, 1, 1, 2, 2], [1, 1, 1, 0, 1, 1])
    assert bucket.state() == {}


@pytest.mark.parametrize(
    ("keys", "column", "message"),
    [
        ({}, pa.array(["1"]), "string is no number"),
        ({"dim": 2}, pa.array([1]), "int64 is no list of numbers, where dim is 2"),
        ({"dim": 2}, pa.array([[1, 2], [1]]), "row 1 has a list of 1 numbers where dim is 2"),
        ({}, pa.array([1, float("inf")]), "infinite"),
        ({"normalizer": "log1p"}, pa.array([0, -1]), "log1p of -1"),
        ({"normalizer": "zscore"}, pa.array([0]), "zscore is not fitted yet"),
        ({"boundaries": [1]}, pa.array(["a"]), "string is no number"),
    ],
)
def test_refuses_what_it_cannot_read(keys: dict[str, Any], column: pa.Array, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        feature(**keys).transform(column)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"boundaries": []}, "boundaries must be rising"),
        ({"boundaries": [1, 1]}, "boundaries must be rising"),
        ({"boundaries": [1], "dim": 2}, "neither dim nor normalizer"),
        ({"boundaries": [1], "normalizer": "log1p"}, "neither dim nor normalizer"),
        ({"embedding_dim": 4}, "of use with boundaries or num_buckets only"),
    ],
)
def test_refuses_keys_that_do_not_go_together(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        feature(**keys)
