"""EASE by hand, and what its lists are."""

import numpy as np
import pytest
from scipy import sparse

from recsys_core.retrieval.ease import Ease


def test_the_table_of_two_items_worked_by_hand():
    # Users 0 and 1 take both items, user 2 the first alone: gram [[3, 2], [2, 2]], with λ 1 [[4, 2], [2, 3]], whose
    # inverse is [[3, -2], [-2, 4]] / 8. B(0, 1) = 2/8 / (4/8) = 1/2 and B(1, 0) = 2/8 / (3/8) = 2/3.
    users, items = np.array([0, 0, 1, 1, 2, 2]), np.array([0, 1, 0, 1, 0, 0])
    ease = Ease(users, items, 2, 1.0)
    assert ease.table_II == pytest.approx(np.array([[0, 1 / 2], [2 / 3, 0]]))


def test_lists_are_sorted_and_padded_and_a_query_without_history_finds_nothing():
    ease = Ease(np.array([0, 0, 1, 1, 2]), np.array([0, 1, 0, 1, 2]), 3, 1.0)
    history = sparse.csr_array(np.array([[1, 0, 0], [0, 0, 0]], np.float32))
    ids, scores = ease.find(history, 4)
    assert ids.tolist() == [[1, 0, 2, -1], [-1, -1, -1, -1]]
    assert scores[0, :3] == pytest.approx(ease.table_II[0, [1, 0, 2]])
    assert np.isneginf(scores[1]).all()
    assert ease.costs(history).tolist() == [3, 3]
