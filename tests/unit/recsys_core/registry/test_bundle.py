"""The example that goes with a released model."""

import pyarrow as pa
import pyarrow.parquet as pq

from recsys_core.registry import bundle


def test_the_example_has_no_nulls_inside_of_lists(tmp_path):
    path = tmp_path / "queries.parquet"
    table = pa.table(
        {
            "history__item_id": pa.array([[7, 8, 9], [7], None], pa.list_(pa.int64())),
            "history__brand": pa.array([[1, None, 3], [None], None], pa.list_(pa.int64())),
            "age": pa.array([30, None, 40]),
            "embedding": [[0.5], [0.5], [0.5]],
        }
    )
    pq.write_table(table, path)
    example = bundle._example(path, set(), ())
    assert example["history__brand"].tolist() == [[1, 3], []]
    assert example["age"].tolist() == [30, None]
    assert list(example.columns) == ["history__item_id", "history__brand", "age"]
    # What one list of an interaction lacks is left out of all of them.
    example = bundle._example(path, set(), ("history__item_id", "history__brand"))
    assert example["history__item_id"].tolist() == [[7, 9], []]
    assert example["history__brand"].tolist() == [[1, 3], []]
    # Of a list of numbers a null is one that is unknown.
    assert bundle._example(path, {"history__brand"}, ())["history__brand"].tolist() == [[1, None, 3], [None]]
