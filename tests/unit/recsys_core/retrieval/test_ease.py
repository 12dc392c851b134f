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


def test_the_table_is_a_ridge_regression_of_each_item_on_all_others():
    rng = np.random.default_rng(5)
    num_users, num_items, regularization = 40, 9, 2.5
    users, items = rng.integers(num_users, size=300), rng.integers(num_items, size=300)
    taken_UI = np.zeros((num_users, num_items))
    taken_UI[users, items] = 1
    expected = np.zeros((num_items, num_items))
    for item in range(num_items):
        others = np.arange(num_items) != item
        # Rows of sqrt(λ) below the users' make least squares pay λ times the weights' squares.
        rows = np.concatenate([taken_UI[:, others], np.sqrt(regularization) * np.eye(num_items - 1)])
        target = np.concatenate([taken_UI[:, item], np.zeros(num_items - 1)])
        expected[others, item] = np.linalg.lstsq(rows, target)[0]
    table = Ease(users, items, num_items, regularization).table_II
    np.testing.assert_allclose(table, expected, rtol=1e-5, atol=1e-6)
