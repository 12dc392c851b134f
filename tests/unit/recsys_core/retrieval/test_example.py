"""The example that goes with a released model."""

import pyarrow as pa

from recsys_core.retrieval.publish import example


def test_the_example_has_no_nulls_inside_of_lists():
    table = pa.table(
        {
            "history__item_id": pa.array([[7, 8, 9], [7], None], pa.list_(pa.int64())),
            "history__brand": pa.array([[1, None, 3], [None], None], pa.list_(pa.int64())),
            "age": pa.array([30, None, 40]),
        }
    )
    found = example(table, set(), ())
    assert found["history__brand"].tolist() == [[1, 3], []]
    assert found["age"].tolist() == [30, None]
    assert list(found.columns) == ["history__item_id", "history__brand", "age"]
    # What one list of an interaction lacks is left out of all of them.
    found = example(table, set(), ("history__item_id", "history__brand"))
    assert found["history__item_id"].tolist() == [[7, 9], []]
    assert found["history__brand"].tolist() == [[1, 3], []]
    # Of a list of numbers a null is one that is unknown.
    assert example(table, {"history__brand"}, ())["history__brand"].tolist() == [[1, None, 3], [None]]
