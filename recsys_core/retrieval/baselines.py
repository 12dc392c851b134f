"""What a model must beat: the day's most popular items, and item-item cosine over the training log's histories."""

import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy import sparse

from recsys_core import holdout
from recsys_core.artifacts import Dataset, Holdout, NextDay
from recsys_core.datasets import _rows, daily

_NEXT_DAY = NextDay()


class Popularity:
    """Every query gets the same list: items by falling number of interactions."""

    def __init__(self, num_interactions_I: np.ndarray) -> None:
        """`num_interactions_I`: count per item, in the item table's order."""
        self._order = np.argsort(-num_interactions_I, kind="stable")
        self._scores = num_interactions_I[self._order].astype(np.float64)

    def find(self, num_queries: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Return ids and scores [num_queries, width]; equal counts stand in the item table's order."""
        shape = (num_queries, width)
        return np.broadcast_to(self._order[:width], shape), np.broadcast_to(self._scores[:width], shape)


class ItemItem:
    """Cosine between items over the users who interacted with them; a query's score is the sum over its history.

    With c(i, j) the number of users with both items and c(i) with item i: s(i, j) = c(i, j) / sqrt(c(i) c(j)), and
    s(i, i) = 0. An item that shares no user with the history scores 0 and is not recommended, so a query without
    history finds nothing: nothing else stands in for it.
    """

    def __init__(self, users: np.ndarray, items: np.ndarray, num_items: int, max_history: int) -> None:
        """Count the pairs of one log.

        Args:
            users: int [N], codes from 0, one per interaction, oldest first.
            items: int [N], likewise, below `num_items`.
            num_items: size of the item table.
            max_history: only each user's last interactions, this many, count. A user costs the square of these.
        """
        order = np.argsort(users, kind="stable")
        users, items = users[order], items[order]
        num_users = int(users[-1]) + 1 if len(users) else 0
        ends = np.searchsorted(users, users, side="right")
        recent = ends - np.arange(len(users)) <= max_history
        users, items = np.divmod(np.unique(users[recent] * num_items + items[recent]), num_items)
        weights = (1 / np.sqrt(np.bincount(items, minlength=num_items)[items])).astype(np.float32)
        matrix = sparse.csr_array((weights, (users, items)), shape=(num_users, num_items))
        similarity = sparse.csr_array(matrix.T @ matrix)
        self.similarity_II = sparse.csr_array(similarity - sparse.diags_array(similarity.diagonal()))
        self.similarity_II.eliminate_zeros()

    def costs(self, history_QI: sparse.csr_array) -> np.ndarray:
        """int64 [Q]: at most this many items score above 0."""
        neighbours = np.diff(self.similarity_II.indptr).astype(np.int64)
        lengths = np.diff(history_QI.indptr)
        owners = np.repeat(np.arange(len(lengths)), lengths)
        bound = np.bincount(owners, weights=neighbours[history_QI.indices], minlength=len(lengths))
        return np.minimum(bound, len(neighbours)).astype(np.int64)

    def find(self, history_BI: sparse.csr_array, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Return ids and scores [B, width], in falling order of score; items that score 0 are padding, -1.

        Equal scores stand in the item table's order.
        """
        product = sparse.csr_array(history_BI @ self.similarity_II)
        lengths = np.diff(product.indptr)
        rows = np.repeat(np.arange(len(lengths)), lengths)
        items, values = product.indices, np.asarray(product.data, np.float32)
        longest = int(lengths.max())
        if longest > width:
            # Only what reaches its row's `width`-th score is sorted: a partition of numbers alone is much cheaper.
            padded = np.zeros((len(lengths), longest), np.float32)
            padded[np.arange(longest) < lengths[:, None]] = values
            reach = np.partition(padded, longest - width, axis=1)[:, longest - width]
            kept = values >= reach[rows]
            rows, items, values = rows[kept], items[kept], values[kept]
        order = np.lexsort((items, -values, rows))
        starts = np.searchsorted(rows, np.arange(len(lengths)))
        columns = np.arange(len(rows)) - starts[rows]
        kept = columns < width
        ids = np.full((len(lengths), width), -1, np.int64)
        scores = np.full((len(lengths), width), -np.inf, np.float32)
        ids[rows[kept], columns[kept]] = items[order[kept]]
        scores[rows[kept], columns[kept]] = values[order[kept]]
        return ids, scores


def read_history(
    dataset: Dataset, day: datetime.date, items: pa.Array, max_interactions: int, held_out: Holdout = _NEXT_DAY
) -> tuple[np.ndarray, np.ndarray]:
    """Read the log's most recent interactions up to the end of `day` but those that are held out, oldest first.

    Whole days are read, newest first, until there are `max_interactions`; items outside `items` are left out.

    Returns:
        users and items, int [N]: users as codes from 0, items as positions in `items`.
    """
    tables, num_rows = [], 0
    files = daily.partitions(dataset.root, "interactions")
    for partition in sorted(dataset.days, key=lambda count: count.day, reverse=True):
        if partition.day > day or num_rows >= max_interactions or not partition.num_interactions:
            continue
        columns = ["user_id", "item_id", "timestamp"]
        paths = files.get(partition.day, [])
        read = [rows for path in paths for rows in _rows.read(dataset.root, "interactions", path, columns)]
        table = pa.concat_tables(read) if read else pa.table({name: [] for name in columns})
        daily.require_rows(dataset, "interactions", partition, table.num_rows)
        if partition.day == day and not isinstance(held_out, NextDay):
            table = table.filter(pa.array(~holdout.selected(held_out, table, day, "timestamp")))
        tables.append(table.take(pc.sort_indices(table["timestamp"])).select(["user_id", "item_id"]))
        num_rows += len(table)
    if not tables:
        raise ValueError(f"{dataset.root}: no interactions up to {day}, so there is no history to compare with")
    log = pa.concat_tables(tables[::-1])
    if log["item_id"].type != items.type:
        raise ValueError(f"{dataset.root}: item_id is {log['item_id'].type} where the item table has {items.type}")
    at = pc.index_in(log["item_id"], value_set=items)
    known = pc.is_valid(at)
    users = log["user_id"].filter(known).combine_chunks().dictionary_encode().indices
    return users.to_numpy().astype(np.int64), at.filter(known).to_numpy().astype(np.int64)
