"""How two towers' rows share one jagged tensor, drawn by hand."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from recsys_core.exported.inputs import tower_inputs
from recsys_core.features import Config, Encoded, Engine, Jagged
from recsys_core.loading.batch import Batch, LabelledBatch, Numbers, jagged, moved

# query.history: [1 2] [] | item.item_id: [5] [6] [7]
QUERY = Encoded(
    2, np.array([[0.5], [1.5]], np.float32), {"history": Jagged(np.array([1, 2]), np.array([2, 0], np.int32))}
)
ITEM = Encoded(3, np.zeros((3, 0), np.float32), {"item_id": Jagged(np.array([5, 6, 7]), np.ones(3, np.int32))})


def test_rows_that_a_feature_does_not_have_are_empty():
    sparse = jagged(QUERY, ITEM, 4)
    assert sparse.keys() == ["query.history", "item.item_id"]
    assert sparse.stride() == 4
    assert sparse.lengths().tolist() == [2, 0, 0, 0, 1, 1, 1, 0]
    assert sparse.values().tolist() == [1, 2, 5, 6, 7]


def test_all_parts_of_a_batch_move_to_a_device():
    batch = Batch.build(QUERY, ITEM, np.array([4, 9, 2]), num_rows=4, global_rows=7)
    there = moved(batch, torch.device("meta"))
    parts = (
        there.sparse.values(),
        there.sparse.lengths(),
        there.query_dense_BF,
        there.item_dense_MF,
        there.item_rows_M,
    )
    assert {part.device.type for part in parts} == {"meta"}
    assert (there.item_rows_M.shape, there.global_rows) == ((3,), 7)
    assert moved(batch, torch.device("cpu")) is batch


@pytest.mark.parametrize("weights", [None, torch.ones(2)])
def test_all_parts_of_a_labelled_batch_move_to_a_device(weights):
    numbers = (Numbers(torch.ones(3, 2), torch.tensor([1, 2])),)
    sparse = jagged(QUERY, ITEM, 4)
    batch = LabelledBatch(sparse, torch.ones(2, 1), {"": torch.zeros(2)}, {"": weights}, global_rows=5, numbers=numbers)
    there = moved(batch, torch.device("meta"))
    parts = [there.sparse.values(), there.dense_BF, *there.labels.values(), *there.numbers[0]]
    if weights is None:
        assert there.weights == {"": None}
    else:
        parts.append(there.weights[""])
    assert {part.device.type for part in parts} == {"meta"}
    assert there.global_rows == 5


def test_a_side_without_sparse_features_makes_a_tensor_without_keys():
    empty = Encoded(1, np.zeros((1, 1), np.float32), {})
    assert jagged(empty, empty, 1).keys() == []


def test_tower_inputs_are_plain_tensors_by_name():
    inputs = tower_inputs(QUERY)
    assert list(inputs) == ["dense", "history.values", "history.lengths"]
    assert inputs["history.lengths"].dtype == torch.int64


@pytest.mark.parametrize("names", [["a", "b", "c"], ["b", "a", "c"], ["a", "c"], ["a", "a", "b"], ["c"]])
def test_values_that_lie_beside_each_other_are_the_same_as_if_they_were_copied(names):
    engine = Engine.build(
        Config.model_validate(
            {
                "embedding_dim": 4,
                "query": [
                    {"kind": "id", "name": name, "encoding": "identity", "num_embeddings": 10}
                    for name in ("a", "b", "c")
                ],
                "item": [],
            }
        )
    )
    encoded = engine.transform(pa.table({"a": [1, 2], "b": [3, 4], "c": [5, 6]}), "query")
    chosen = Encoded(2, encoded.dense, {f"f{at}": encoded.sparse[name] for at, name in enumerate(names)})
    nothing = Encoded(0, np.empty((0, 0), np.float32), {})
    expected = [value for name in names for value in {"a": [1, 2], "b": [3, 4], "c": [5, 6]}[name]]
    for num_rows in (2, 3):
        sparse = jagged(chosen, nothing, num_rows)
        assert sparse.values().tolist() == expected
        assert sparse.lengths().tolist() == [1, 1, 0][:num_rows] * len(names)


def test_what_arrow_lends_is_copied_before_a_tensor_could_write_to_it():
    lent = pa.array([7, 8]).to_numpy()
    encoded = Encoded(2, np.zeros((2, 0), np.float32), {"a": Jagged(lent, np.ones(2, np.int32))})
    values = jagged(encoded, Encoded(0, np.empty((0, 0), np.float32), {}), 2).values()
    values[0] = 0
    assert lent.tolist() == [7, 8]
