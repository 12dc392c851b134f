"""How two towers' rows share one jagged tensor, drawn by hand."""

import numpy as np
import torch

from recsys_core.batch import Batch, jagged
from recsys_core.features import Encoded, Jagged
from recsys_core.towers import tower_inputs

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


def test_a_batch_keeps_its_parts_on_the_way_to_a_device():
    batch = Batch.build(QUERY, ITEM, np.array([4, 9, 2]), num_rows=4, global_rows=7)
    moved = batch.to(torch.device("cpu"))
    assert moved.item_rows_M.tolist() == [4, 9, 2]
    assert moved.query_dense_BF.tolist() == [[0.5], [1.5]]
    assert moved.item_dense_MF.shape == (3, 0)
    assert moved.sparse.values().tolist() == [1, 2, 5, 6, 7]
    assert moved.global_rows == 7


def test_a_side_without_sparse_features_makes_a_tensor_without_keys():
    empty = Encoded(1, np.zeros((1, 1), np.float32), {})
    assert jagged(empty, empty, 1).keys() == []


def test_tower_inputs_are_plain_tensors_by_name():
    inputs = tower_inputs(QUERY)
    assert list(inputs) == ["dense", "history.values", "history.lengths"]
    assert inputs["history.lengths"].dtype == torch.int64
