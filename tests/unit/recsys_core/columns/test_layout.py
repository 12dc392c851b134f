"""Layouts that mean the same, types that agree, and names that stand twice."""

import pyarrow as pa
import pytest

from recsys_core.columns import by_chunk, ids, plain, plain_type, refuse_twice, seconds, united


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (pa.large_string(), ["a", None]),
        (pa.string_view(), ["a", None]),
        (pa.dictionary(pa.int8(), pa.large_string()), ["a", None]),
        (pa.dictionary(pa.int8(), pa.float64()), [1.5, None]),
        (pa.large_list(pa.large_string()), [["a", None], None, []]),
        (pa.list_view(pa.int64()), [[1, None], None, []]),
        (pa.large_list_view(pa.string_view()), [["a", None], None, []]),
        (pa.list_(pa.large_string(), 1), [["a"], [None], None]),
        (pa.list_(pa.list_(pa.dictionary(pa.int32(), pa.string()))), [[["a"], None], None]),
        (pa.int32(), [1, None]),
        (pa.list_(pa.int64(), 2), [[1, 2], None]),
    ],
)
def test_plain_keeps_the_values_and_plain_type_names_what_it_makes(kind, values):
    column = pa.array(values, kind)
    for part in (column, column.slice(1), column.slice(0, 0)):
        made = plain(part)
        assert made.to_pylist() == part.to_pylist()
        assert made.type == plain_type(kind)
        made.validate(full=True)


def test_plain_takes_what_has_nothing_to_be_made_plain_as_it_is():
    column = pa.array([[1], [2]])
    assert plain(column) is column


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        (pa.string(), pa.large_string(), pa.string()),
        (pa.dictionary(pa.int8(), pa.string()), pa.string_view(), pa.string()),
        (pa.int8(), pa.uint32(), pa.int64()),
        (pa.int64(), pa.null(), pa.int64()),
        (pa.list_(pa.int32()), pa.large_list(pa.int64()), pa.list_(pa.int64())),
        (pa.list_(pa.null()), pa.list_(pa.string()), pa.list_(pa.string())),
        (pa.int64(), pa.string(), None),
        (pa.int64(), pa.float64(), None),
        # 0.7 is in another bucket.
        (pa.float32(), pa.float64(), None),
        (pa.int64(), pa.uint64(), None),
        (pa.string(), pa.list_(pa.string()), None),
    ],
)
def test_types_that_mean_the_same_have_one_that_holds_both(one, other, both):
    assert united(one, other) == united(other, one) == both


def test_a_refused_row_is_counted_over_chunks():
    column = pa.chunked_array([[1.0, 2.0], [3.0, 3.5]])
    with pytest.raises(ValueError, match="row 3: id 3.5 is no whole number"):
        by_chunk(ids, column)
    assert by_chunk(ids, column.slice(0, 3)).to_pylist() == [1, 2, 3]
    assert by_chunk(lambda chunk: seconds(chunk).seconds, pa.chunked_array([], pa.string())).type == pa.int64()


def test_a_name_that_stands_twice_is_reported_with_its_file():
    refuse_twice("a.parquet", ["a", "b"])
    with pytest.raises(ValueError, match=r"a\.parquet: the column 'b' is there more than once, .* rename or drop one"):
        refuse_twice("a.parquet", ["b", "a", "b", "b"])
