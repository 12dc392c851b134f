"""What a model must beat: popular items, of the whole log and of its last days, and what items say of each other.

Of the latter there are two: the cosine of items over the users who took them, and how often one is taken soon after the
other.
"""

import datetime
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy import sparse

from recsys_core import holdout, splits
from recsys_core.artifacts import Dataset, Holdout, NextDay, Split
from recsys_core.datasets import _rows, base, daily

_NEXT_DAY = NextDay()
# A query's scores are made as a whole row of the item table from this share of additions per item on: below, most of
# the row would be zeros that are written and read for nothing.
_DENSE = 8
# Rows whose terms lie in the cache together, and numbers that cost as much as a cell of a retrieved list.
_ROWS_AT_ONCE, _NUMBERS_PER_CELL = 4, 8
# Groups of items per list entry by whose maxima most items are left out.
_GROUPS = 4


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


class ItemToItem:
    """A sparse table of what items say of each other; a query's scores are the weighted sum of its history's rows.

    An item of which the history says nothing scores 0 and is not recommended, so a query without history finds nothing:
    nothing else stands in for it.
    """

    def __init__(self, similarity_II: sparse.csr_array) -> None:
        """Row i of `similarity_II`, float32, is what item i in a history adds to the score of every item."""
        self.similarity_II = similarity_II

    def costs(self, history_QI: sparse.csr_array) -> np.ndarray:
        """int64 [Q]: how much memory `find` takes for each query, in cells of a retrieved list."""
        additions, num_items = self._additions(history_QI), _shape(self.similarity_II)[0]
        dense = (additions + num_items) // _NUMBERS_PER_CELL
        return np.where(self._is_dense(additions), dense, np.minimum(additions, num_items))

    def find(self, history_BI: sparse.csr_array, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Return ids and scores [B, width], in falling order of score; items that score 0 are padding, -1.

        Equal scores stand in the item table's order.
        """
        ids = np.full((_shape(history_BI)[0], width), -1, np.int64)
        scores = np.full((_shape(history_BI)[0], width), -np.inf, np.float32)
        dense = self._is_dense(self._additions(history_BI))
        for rows in filter(len, (np.flatnonzero(dense), np.flatnonzero(~dense))):
            few = history_BI[rows]
            found = self._dense(few, width) if dense[rows[0]] else self._sparse(few)
            ids[rows], scores[rows] = _best(*found, len(rows), width)
        return ids, scores

    def _additions(self, history_QI: sparse.csr_array) -> np.ndarray:
        """int64 [Q]: how many numbers the scores of each query are added up from."""
        neighbours = np.diff(self.similarity_II.indptr).astype(np.int64)
        running = np.concatenate([[0], np.cumsum(neighbours[history_QI.indices])])
        return np.diff(running[history_QI.indptr])

    def _is_dense(self, additions_Q: np.ndarray) -> np.ndarray:
        return additions_Q * _DENSE >= _shape(self.similarity_II)[0]

    def _sparse(self, history_BI: sparse.csr_array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return rows, items and scores of all that scores above 0, row by row."""
        product = sparse.csr_array(history_BI @ self.similarity_II)
        product.sort_indices()
        rows = np.repeat(np.arange(_shape(product)[0]), np.diff(product.indptr))
        return rows, product.indices, np.asarray(product.data, np.float32)

    def _dense(self, history_BI: sparse.csr_array, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return rows, items and scores of what may be among the best `width` of each query, row by row.

        Where many items score, each row of scores is written as a whole, with every item's place known: a sparse
        product looks each one up. The numbers are the same, added in the same order.
        """
        num_rows, num_items = _shape(history_BI)
        scores_BI = np.empty((num_rows, num_items), np.float32)
        for start in range(0, num_rows, _ROWS_AT_ONCE):
            few = history_BI[start : start + _ROWS_AT_ONCE]
            terms = self.similarity_II[few.indices]
            terms.data *= np.repeat(few.data, np.diff(terms.indptr))
            # The terms of a query's whole history as one row, in which an item stands several times: they are summed.
            summed = sparse.csr_array((terms.data, terms.indices, terms.indptr[few.indptr]), shape=few.shape)
            summed.toarray(out=scores_BI[start : start + _ROWS_AT_ONCE])
        least_B = np.nextafter(np.zeros(num_rows, np.float32), np.float32(1))
        num_groups = _GROUPS * width
        if num_groups < num_items:
            # Each of the groups that have the `width` highest maxima holds an item that scores as much at least.
            grouped = scores_BI[:, : num_items // num_groups * num_groups].reshape(num_rows, -1, num_groups)
            highest = np.partition(grouped.max(axis=1), num_groups - width, axis=1)[:, num_groups - width]
            least_B = np.maximum(least_B, highest)
        at = np.flatnonzero(scores_BI >= least_B[:, None])
        return at // num_items, at % num_items, scores_BI.reshape(-1)[at]


class ItemItem(ItemToItem):
    """Cosine between items over the users who interacted with them.

    With c(i, j) the number of users with both items and c(i) with item i: s(i, j) = c(i, j) / sqrt(c(i) c(j)), and
    s(i, i) = 0.
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
        # Sorted and compared: numpy's `unique` takes many times as long for millions of keys.
        keys = np.sort(users[recent] * num_items + items[recent])
        users, items = np.divmod(keys[np.concatenate([np.ones(len(keys[:1]), bool), keys[1:] != keys[:-1]])], num_items)
        weights = (1 / np.sqrt(np.bincount(items, minlength=num_items)[items])).astype(np.float32)
        matrix = sparse.csr_array((weights, _narrow(users, items)), shape=(num_users, num_items))
        similarity = sparse.csr_array(matrix.T @ matrix)
        # An item is not similar to itself.
        similarity.data[similarity.indices == np.repeat(np.arange(num_items), np.diff(similarity.indptr))] = 0
        similarity.eliminate_zeros()
        super().__init__(similarity)


class Markov(ItemToItem):
    """How often item j is taken after item i, by what comes soonest: a Markov chain that looks past the next item.

    t(i, j) is the sum of decay^(d - 1) over all times that a user took j as the d-th item after i, d up to `span`,
    divided by how often i was taken. Ludewig & Jannach 2018, Evaluation of Session-based Recommendation Algorithms
    (section 3.1: Markov chains are `span` 1; Sequential Rules have 1 / d in place of the power).
    """

    def __init__(self, users: np.ndarray, items: np.ndarray, num_items: int, span: int, decay: float) -> None:
        """Count what follows what in one log; arguments are those of `ItemItem`, and the class's."""
        order = np.argsort(users, kind="stable")
        users, items = users[order], items[order]
        counts = np.bincount(items, minlength=num_items).astype(np.float32)
        table = sparse.csr_array((num_items, num_items), dtype=np.float32)
        for distance in range(1, min(span, max(len(users) - 1, 0)) + 1):
            same = users[distance:] == users[:-distance]
            before, after = items[:-distance][same], items[distance:][same]
            weights = np.float32(decay ** (distance - 1)) / counts[before]
            # Of the same pair several times the weights are summed.
            table += sparse.csr_array((weights, _narrow(before, after)), shape=table.shape)
        super().__init__(sparse.csr_array(table))


def last_items(history: "History", queries: pa.Array, num_items: int, span: int, decay: float) -> sparse.csr_array:
    """Return each query's last items, [Q, num_items]: decay^p of the item that is p before the last, p below `span`.

    `queries` are users; one that the history does not have has none.
    """
    order = np.argsort(history.users, kind="stable")
    users, items = history.users[order], history.items[order]
    back = np.searchsorted(users, users, side="right") - 1 - np.arange(len(users))
    recent = back < span
    weights = np.power(np.float32(decay), back[recent], dtype=np.float32)
    shape = (len(history.user_ids), num_items)
    by_user = sparse.csr_array((weights, (users[recent], items[recent])), shape=shape)
    at = pc.index_in(queries, value_set=history.user_ids.cast(queries.type))
    there = np.flatnonzero(at.is_valid().to_numpy(zero_copy_only=False))
    rows = by_user[at.drop_null().to_numpy()]
    lengths = np.zeros(len(queries), np.int64)
    lengths[there] = np.diff(rows.indptr)
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    return sparse.csr_array((rows.data, rows.indices, indptr), shape=(len(queries), num_items))


def _shape(matrix: sparse.csr_array) -> tuple[int, int]:
    assert matrix.shape is not None
    return matrix.shape


def _narrow(users: np.ndarray, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return both in 32 bits if they fit: half of what sparse products read is positions."""
    fits = max(users.max(initial=0), items.max(initial=0)) <= np.iinfo(np.int32).max
    kind = np.int32 if fits else np.int64
    return users.astype(kind), items.astype(kind)


def _best(
    rows: np.ndarray, items: np.ndarray, values: np.ndarray, num_rows: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Sort candidates, which stand by row and then by item; return ids and scores [num_rows, width], padded."""
    lengths = np.bincount(rows, minlength=num_rows)
    longest = int(lengths.max())
    if longest > width:
        # Only what reaches its row's `width`-th score is sorted: a partition of numbers alone is much cheaper.
        reach = np.partition(_padded(values, lengths, longest), longest - width, axis=1)[:, longest - width]
        kept = values >= reach[rows]
        rows, items, values = rows[kept], items[kept], values[kept]
        lengths = np.bincount(rows, minlength=num_rows)
        longest = int(lengths.max())
    # Stable, so that equal scores stay in the item table's order.
    order = np.argsort(-_padded(values, lengths, longest), axis=1, kind="stable")[:, :width]
    filled = np.arange(order.shape[1]) < lengths[:, None]
    at = (order + (np.cumsum(lengths) - lengths)[:, None])[filled]
    ids = np.full((num_rows, width), -1, np.int64)
    scores = np.full((num_rows, width), -np.inf, np.float32)
    ids[:, : order.shape[1]][filled] = items[at]
    scores[:, : order.shape[1]][filled] = values[at]
    return ids, scores


def _padded(values: np.ndarray, lengths: np.ndarray, longest: int) -> np.ndarray:
    """Return rows of numbers above 0 as a matrix, with zeros at the ends."""
    padded = np.zeros((len(lengths), longest), np.float32)
    padded[np.arange(longest) < lengths[:, None]] = values
    return padded


class History(NamedTuple):
    """Interactions, oldest first: `users` int [N], codes of `user_ids`, and `items` int [N], rows of the item table."""

    users: np.ndarray
    items: np.ndarray
    user_ids: pa.Array


def read_history(
    dataset: Dataset, day: datetime.date, items: pa.Array, max_interactions: int, held_out: Holdout = _NEXT_DAY
) -> History:
    """Read the log's most recent interactions up to the end of `day` but those that are held out.

    Whole days are read, newest first, until there are `max_interactions`; items outside `items` are left out. Where a
    split of the whole log holds out, all of it is read, and the newest of what is left are returned.
    """
    split = held_out if isinstance(held_out, Split) else None
    tables, num_rows = [], 0
    for _, table in _newest_first(dataset, day, ["user_id", "item_id", "timestamp"], held_out):
        tables.append(table.take(pc.sort_indices(table["timestamp"])))
        num_rows += len(table)
        if num_rows >= max_interactions and split is None:
            break
    if not tables:
        raise ValueError(f"{dataset.root}: no interactions up to {day}, so there is no history to compare with")
    log = pa.concat_tables(tables[::-1])
    if split is not None:
        log = _known(split, log)
        log = log.slice(max(len(log) - max_interactions, 0))
    at = _places(dataset, log["item_id"], items)
    known = pc.is_valid(at)
    users = log["user_id"].filter(known).combine_chunks().dictionary_encode()
    return History(
        users.indices.to_numpy().astype(np.int64), at.filter(known).to_numpy().astype(np.int64), users.dictionary
    )


def count_recent(
    dataset: Dataset, day: datetime.date, items: pa.Array, num_days: int, held_out: Holdout = _NEXT_DAY
) -> np.ndarray:
    """Count each item's interactions on the last days up to `day` but those that are held out; int64 [I].

    Where a split of the whole log holds out, the last days are those before the newest interaction that is left.
    """
    split = held_out if isinstance(held_out, Split) else None
    of_items = split is None and isinstance(held_out, NextDay)
    counts, tables = np.zeros(len(items), np.int64), list[pa.Table]()

    def count(table: pa.Table) -> None:
        nonlocal counts
        places = _places(dataset, table["item_id"], items).drop_null().to_numpy()
        counts += np.bincount(places, minlength=len(items))

    columns = ["item_id"] if of_items else ["user_id", "item_id", "timestamp"]
    for at, table in _newest_first(dataset, day, columns, held_out):
        if split is not None:
            tables.append(table.take(pc.sort_indices(table["timestamp"])))
        elif (day - at).days < num_days:
            count(table)
        else:
            break
    if split is not None and tables:
        log = _known(split, pa.concat_tables(tables[::-1]))
        seconds = log["timestamp"].to_numpy()
        count(log.filter(pa.array(seconds > seconds.max(initial=0) - num_days * base.DAY_SECONDS)))
    return counts


def _newest_first(
    dataset: Dataset, day: datetime.date, columns: list[str], held_out: Holdout
) -> Iterator[tuple[datetime.date, pa.Table]]:
    """Yield the rows of each day up to `day` that has some, without those held out by anything but a split."""
    files = daily.partitions(dataset.root, "interactions")
    for partition in sorted(dataset.days, key=lambda count: count.day, reverse=True):
        if partition.day > day or not partition.num_interactions:
            continue
        paths = files.get(partition.day, [])
        read = [rows for path in paths for rows in _rows.read(dataset.root, "interactions", path, columns)]
        table = pa.concat_tables(read) if read else pa.table({name: [] for name in columns})
        daily.require_rows(dataset, "interactions", partition, table.num_rows)
        # Of a split it follows from the whole log which rows are held out.
        if partition.day == day and not isinstance(held_out, Split | NextDay):
            table = table.filter(pa.array(~holdout.selected(held_out, table, day, "timestamp")))
        yield partition.day, table


def _places(dataset: Dataset, found: pa.ChunkedArray, items: pa.Array) -> pa.ChunkedArray:
    """Return where each of the log's items stands in `items`; null of one that is not there."""
    if found.type != items.type:
        raise ValueError(f"{dataset.root}: item_id is {found.type} where the item table has {items.type}")
    return pc.index_in(found, value_set=items)


def _known(split: Split, log: pa.Table) -> pa.Table:
    """Return what of a whole log, oldest first, is known when it is measured on the rest."""
    users, items = (log[name].combine_chunks().dictionary_encode().indices for name in ("user_id", "item_id"))
    roles, _ = splits.divide(split, log["timestamp"].to_numpy(), users.to_numpy(), items.to_numpy())
    return log.filter(pa.array((roles == splits.LEARNED) | (roles == splits.KNOWN)))
