"""Raw features: normalisers by hand, buckets, and which columns they refuse."""

import json
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_core.features import Config as Features
from recsys_core.features import Engine, base
from recsys_core.features.raw import Config, Feature


def feature(**keys: Any) -> Feature:
    return Feature(Config(name="f", **keys))


def fitted(column: pa.Array, **keys: Any) -> Feature:
    made = feature(**keys)
    made.observe(column)
    made.settle()
    if made.encoder is not None:
        made.encoder.settle()
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


def test_log10_takes_zero_for_the_smallest_number() -> None:
    column = pa.array([100, 1, 0, -5, None])
    assert numbers(feature(normalizer="log10", fill=7), column) == [[2], [0], [-10], [-10], [7]]


def test_quantile_by_hand() -> None:
    # Of 1 2 2 5 a quarter is less than 2 and half equals it; of what was not seen only what is less counts.
    made = fitted(pa.array([2, 5, None, 1, 2]), normalizer="quantile", fill=-1)
    expected = [[0.125], [0.5], [0.75], [0.875], [0], [1], [-1]]
    asked = pa.array([1, 2, 3, 5, 0, 9, None])
    assert numbers(made, asked) == expected
    again = feature(normalizer="quantile", fill=-1)
    again.restore(json.loads(json.dumps(made.state())))
    assert numbers(again, asked) == expected
    pairs = fitted(pa.array([[1, 30], [2, 20]]), normalizer="quantile", dim=2)
    assert numbers(pairs, pa.array([[1, 20]])) == [[0.25, 0.25]]


def test_an_expression_is_of_the_number_x() -> None:
    made = feature(normalizer="expression", expression="(x - 1) / x", fill=9)
    assert numbers(made, pa.array([2, 4, 0, None])) == [[0.5], [0.75], [9], [9]]
    assert numbers(feature(normalizer="expression", expression="x ^ 2", dim=2), pa.array([[2, 3]])) == [[4, 9]]


def test_fitted_boundaries_part_the_numbers_evenly_and_stay() -> None:
    made = fitted(pa.array([4, 1, None, 3, 2, 6, 5]), num_buckets=3)
    assert (made.table, made.dense_dim) == ("f", 0)
    assert made.encoder is not None
    assert made.encoder.num_embeddings == 3
    asked = pa.array([0, 2, 3, 4, 5, 99, None])
    # Sorted, places 2 and 4 of six: 3 and 5.
    encoded = made.transform(asked)
    assert isinstance(encoded, base.Jagged)
    assert (encoded.values.tolist(), encoded.lengths.tolist()) == ([0, 0, 1, 1, 2, 2], [1, 1, 1, 1, 1, 1, 0])
    made.observe(pa.array([100.0] * 50))
    assert made.encoder is not None
    made.encoder.settle()
    again = made.transform(asked)
    assert isinstance(again, base.Jagged)
    assert again.values.tolist() == encoded.values.tolist(), "what a row stands for does not change"


def test_fewer_buckets_are_used_where_many_numbers_are_equal() -> None:
    made = fitted(pa.array([0] * 9 + [1]), num_buckets=5)
    encoded = made.transform(pa.array([[-1, 0], [1, None]]))
    assert isinstance(encoded, base.Jagged)
    assert (encoded.values.tolist(), encoded.lengths.tolist()) == ([0, 1, 1], [2, 1])
    empty = fitted(pa.nulls(2, pa.float64()), num_buckets=5).transform(pa.array([3.0]))
    assert isinstance(empty, base.Jagged)
    assert empty.values.tolist() == [0]


@pytest.mark.parametrize(
    ("keys", "column", "message"),
    [
        ({"num_buckets": 3}, pa.array([1]), "the boundaries are not fitted yet"),
        ({"normalizer": "quantile"}, pa.array([1]), "quantile is not fitted yet"),
        ({}, pa.array(["1"]), "string is no number"),
        ({"dim": 2}, pa.array([1]), "int64 is no list of numbers, where dim is 2"),
        ({"dim": 2}, pa.array([[1, 2], [1]]), "row 1: has a list of 1 numbers where dim is 2"),
        ({}, pa.array([1, float("inf")]), "infinite"),
        ({"normalizer": "log1p"}, pa.array([0, -1]), "log1p of -1"),
        ({"normalizer": "zscore"}, pa.array([0]), "zscore is not fitted yet"),
        ({"boundaries": [1]}, pa.array(["a"]), "string is no number"),
        ({"pooling": "none"}, pa.array([1]), "int64 is no list, which pooling: none takes"),
        ({"pooling": "none"}, pa.array([["1"]]), "string is no number"),
        ({"pooling": "none", "separator": ";"}, pa.array(["1;a"]), "a text between separators is no number .*'a'"),
        ({"pooling": "none", "dim": 2}, pa.array([[[1, 2]], None, [[1]]]), "row 2: has a list of 1 numbers where dim"),
        ({"pooling": "none", "normalizer": "minmax"}, pa.array([[1]]), "minmax is not fitted yet"),
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
        ({"boundaries": [1, float("nan")]}, "finite number"),
        ({"boundaries": [3, 2]}, r"boundaries must be rising numbers, at least one; found \[3.0, 2.0\]"),
        ({"boundaries": [1], "num_buckets": 3}, "give one of both"),
        ({"num_buckets": 3, "table": "t"}, "table goes with boundaries that are given"),
        ({"num_buckets": 3, "normalizer": "zscore"}, "neither dim nor normalizer"),
        ({"table": "t"}, "of use with boundaries or num_buckets only"),
        ({"normalizer": "expression"}, "normalizer: expression goes with expression"),
        ({"expression": "x"}, "normalizer: expression goes with expression"),
        ({"normalizer": "expression", "expression": "x + y"}, "the number is called x"),
        ({"normalizer": "expression", "expression": "x +"}, "position 4"),
        ({"normalizer": "expression", "expression": "vmax(x)"}, "vmax takes lists of numbers"),
        ({"embedding_dim": 4}, "of use with boundaries or num_buckets only"),
        ({"pooling": "max"}, "of use with boundaries or num_buckets only"),
        ({"max_length": 2}, "separator and max_length are of lists"),
        ({"separator": ";"}, "separator and max_length are of lists"),
        ({"separator": ";", "dim": 2, "pooling": "none"}, "where dim is 2; give lists of lists"),
    ],
)
def test_refuses_keys_that_do_not_go_together(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        feature(**keys)


def test_encoded_numbers_pass_and_learn_nothing() -> None:
    made = feature(normalizer="zscore", input="encoded", fill=-1.0)
    assert made.fitted is None
    assert numbers(made, pa.array([1.5, None])) == [[1.5], [-1.0]]
    assert numbers(made, pa.array([2, 5])) == [[2.0], [5.0]]
    pair = feature(dim=2, normalizer="log1p", input="encoded")
    assert numbers(pair, pa.array([[0.0, -7.0], None])) == [[0.0, -7.0], [0.0, 0.0]]


def entries(made: Feature, column: pa.Array) -> tuple[list[list[float]], list[int]]:
    result = made.transform(column)
    assert isinstance(result, base.Jagged)
    assert (result.values.dtype, result.lengths.dtype) == (np.float32, np.int32)
    return result.values.tolist(), result.lengths.tolist()


@pytest.mark.parametrize(
    ("keys", "column", "expected"),
    [
        ({"fill": -1}, pa.array([[1, None, 3], None, [], [4]]), ([[1], [-1], [3], [4]], [3, 0, 0, 1])),
        ({"max_length": 2, "fill": 9}, pa.array([[1, None, None], [2]]), ([[9], [9], [2]], [2, 1])),
        ({"max_length": 2, "keep": "first"}, pa.array([[1, 2, 3], [4]]), ([[1], [2], [4]], [2, 1])),
        ({"separator": ";"}, pa.array(["1.5; -2;;1e3", "", None, "7"]), ([[1.5], [-2], [0], [1e3], [7]], [4, 0, 0, 1])),
        ({"dim": 2, "fill": 5}, pa.array([[[1, 2], None, [3, None]], None]), ([[1, 2], [5, 5], [3, 5]], [3, 0])),
        ({"dim": 2, "max_length": 1}, pa.array([[[1, 2], [3, 4]], [[5, 6]]]), ([[3, 4], [5, 6]], [1, 1])),
        ({}, pa.array([[1.5, 2], None], pa.list_(pa.float32(), 2)), ([[1.5], [2]], [2, 0])),
        ({}, pa.array([[True, False]]), ([[1], [0]], [2])),
        ({}, pa.nulls(2), ([], [0, 0])),
        ({"normalizer": "log1p"}, pa.array([[0, None]]), ([[0], [0]], [2])),
        ({"normalizer": "log10", "input": "encoded"}, pa.array([[7, None]]), ([[7], [0]], [2])),
        (
            {"normalizer": "expression", "expression": "1 / x", "fill": 8},
            pa.array([[4, 0], []]),
            ([[0.25], [8]], [2, 0]),
        ),
        ({"normalizer": "expression", "expression": "1 / x"}, pa.array([None], pa.list_(pa.int8())), ([], [0])),
    ],
)
def test_a_sequence_has_any_number_of_entries(keys: dict[str, Any], column: pa.Array, expected: Any) -> None:
    made = feature(pooling="none", **keys)
    assert (made.dense_dim, made.table, made.sequence_dim) == (0, None, keys.get("dim", 1))
    assert entries(made, column) == expected


def test_what_a_sequence_learns_is_of_the_entries_that_are_kept() -> None:
    column = pa.array([[99, 2, 4], [6], None])
    low = fitted(column, pooling="none", max_length=2, normalizer="minmax")
    assert entries(low, column) == ([[0], [0.5], [1]], [2, 1, 0])
    ranks = fitted(column, pooling="none", keep="first", max_length=1, normalizer="quantile")
    assert entries(ranks, pa.array([[6, 99], [100]])) == ([[0.25], [1]], [1, 1])
    pairs = pa.array([[[1, 30], [3, 10]], [[2, None]]])
    found = entries(fitted(pairs, pooling="none", dim=2, normalizer="zscore"), pairs)
    root = 1.5**0.5
    np.testing.assert_allclose(found[0], [[-root, 1], [root, -1], [0, 0]], rtol=1e-6)


@given(
    st.lists(st.one_of(st.none(), st.lists(st.one_of(st.none(), st.floats(-9, 9, width=32)), max_size=5)), max_size=5),
    st.sampled_from([None, 1, 3]),
    st.sampled_from(["first", "last"]),
)
def test_a_sequence_is_that_of_plain_python(rows: list[Any], most: int | None, keep: str) -> None:
    made = fitted(pa.array([[3], [5]]), pooling="none", normalizer="minmax", fill=7, max_length=most, keep=keep)
    cut = [(row or [])[: most or None] if keep == "first" else (row or [])[-(most or 0) :] for row in rows]
    values = [[7.0] if x is None else [float(np.float32((x - 3) / 2))] for row in cut for x in row]
    assert entries(made, pa.array(rows, pa.list_(pa.float64()))) == (values, [len(row) for row in cut])


def test_buckets_of_lists_are_split_and_cut() -> None:
    bucket = feature(boundaries=[0, 10], separator=",", max_length=2, pooling="none")
    assert (bucket.table, bucket.pooling, bucket.sequence_dim) == ("f", "none", 0)
    encoded = bucket.transform(pa.array(["-1, 5,50", "3,", None]))
    assert isinstance(encoded, base.Jagged)
    assert (encoded.values.tolist(), encoded.lengths.tolist()) == ([1, 2, 1], [2, 1, 0])
    given_ = feature(boundaries=[0, 10], separator=",", input="encoded").transform(pa.array(["2,0"]))
    assert isinstance(given_, base.Jagged)
    assert given_.values.tolist() == [2, 0]


def test_a_sequence_and_a_vector_of_one_column_are_distinguished() -> None:
    query = [{"kind": "raw", "name": "pair", "column": "x", "dim": 2}, {"kind": "raw", "name": "x", "pooling": "none"}]
    engine = Engine.build(Features.model_validate({"embedding_dim": 4, "query": query, "item": []}))
    encoded = engine.transform(pa.table({"x": [[1.0, 2.0], [3.0, 4.0]]}), "query")
    assert encoded.dense.tolist() == [[1, 2], [3, 4]]
    assert encoded.numbers["x"].values.tolist() == [[1], [2], [3], [4]]
    assert (engine.dense_features("query"), engine.number_sequences("query")) == ((("pair", 2),), (("x", 1),))


def test_encoded_buckets_are_numbers_of_buckets() -> None:
    made = feature(boundaries=(1.0, 2.0), input="encoded")
    encoded = made.transform(pa.array([2, None, 0], pa.int8()))
    assert isinstance(encoded, base.Jagged)
    assert (encoded.values.tolist(), encoded.lengths.tolist()) == ([2, 0], [1, 0, 1])
    with pytest.raises(ValueError, match=r"row 0: id 3 is not in 0\.\.2"):
        made.transform(pa.array([3]))
    with pytest.raises(ValueError, match="numbers of buckets are integers, found double"):
        made.transform(pa.array([0.5]))
