"""EASE: a linear model of items on items, in closed form; hardly any other costs so little for what it finds.

Steck 2019, Embarrassingly Shallow Autoencoders for Sparse Data (equations 3 and 8): with the users' binary matrix X
[U, I], P = (Xᵀ X + λ 1)⁻¹ and B(i, j) = -P(i, j) / P(j, j), B(j, j) = 0. A query's scores are the sum of its history's
rows of B. The whole table is held, 32 bytes for each pair of items while it is solved, and solving takes I³ steps: it
is for thousands of items.
"""

import numpy as np
from scipy import sparse


class Ease:
    """The table of one log."""

    def __init__(self, users: np.ndarray, items: np.ndarray, num_items: int, regularization: float) -> None:
        """Solve for the table.

        Args:
            users: int [N], codes from 0, one per interaction.
            items: int [N], likewise, below `num_items`.
            num_items: size of the item table.
            regularization: λ, in interactions.
        """
        num_users = int(users.max(initial=-1)) + 1
        taken = sparse.csr_array((np.ones(len(users)), (users, items)), shape=(num_users, num_items))
        # Of repeated interactions one counts.
        taken.sum_duplicates()
        taken.data[:] = 1.0
        gram = (taken.T @ taken).toarray()
        gram[np.diag_indices(num_items)] += regularization
        table = np.linalg.inv(gram)
        table /= -np.diag(table)
        table[np.diag_indices(num_items)] = 0.0
        self.table_II = table.astype(np.float32)

    def costs(self, history_QI: sparse.csr_array) -> np.ndarray:
        """int64 [Q]: how much memory `find` takes for each query, in cells of a retrieved list."""
        return np.full(len(history_QI.indptr) - 1, len(self.table_II), np.int64)

    def find(self, history_BI: sparse.csr_array, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Return ids and scores [B, width], best first; a query without history finds nothing: padding, -1.

        Equal scores stand in the item table's order.
        """
        scores_BI = np.asarray(history_BI @ self.table_II, np.float32)
        shown = min(width, scores_BI.shape[1])
        ids = np.full((len(scores_BI), width), -1, np.int64)
        scores = np.full((len(scores_BI), width), -np.inf, np.float32)
        has_history = np.diff(history_BI.indptr) > 0
        order = np.argsort(-scores_BI[has_history], axis=1, kind="stable")[:, :shown]
        ids[has_history, :shown] = order
        scores[has_history, :shown] = np.take_along_axis(scores_BI[has_history], order, axis=1)
        return ids, scores
