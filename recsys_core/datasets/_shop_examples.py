r"""The made-up shop's clicks as ready-made examples by day, in the form that `data.kind: examples` reads.

    train/ds=DAY/        a row per click: the user's fields, clicked_items (text, ids joined by \x02) and
                         clicked_categories (a list) of the last clicks before it; item_id, the item's category, brand
                         and price
    evaluation/ds=DAY/   a row per user who clicks on the day: the same as the day begins, and gt_items, a list
    items/ds=DAY/        item_id, category, brand, price, tags of all items as the day ends
    negatives/ds=DAY.txt id:int64, weight:float, attrs:string with tabs between: the items, clicks ** 0.75 + 1, and
                         category:brand:price

Memory holds all users, all items, a day's clicks and each user's last ones.
"""

import datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys_core.artifacts import write_text
from recsys_core.datasets import _shop, base, synthetic
from recsys_core.datasets._shop import Config, Shop
from recsys_core.features.base import Jagged
from recsys_core.features.columns.flat import spans
from recsys_core.progress import Event, Sink

_MAX_LENGTH = 30
_SEPARATOR = "\x02"
_FIELDS = ("age", "gender", "city", "interests")
_ATTRIBUTES = ("category", "brand", "price")
_PART = "part-00000.parquet"


class Counts(NamedTuple):
    """What was made: rows of training and evaluation on all days, and the items of the last one."""

    num_days: int
    num_train: int
    num_evaluation: int
    num_items: int


def write(config: Config, root: Path, sink: Sink) -> Counts:
    """Make the tables below `root`, day by day."""
    shop, users, items = Shop(config), _Rows("user_id"), _Rows("item_id")
    past, clicks_I = _Past(np.zeros(0, np.int64), np.zeros(0, np.int64)), np.zeros(0)
    num_train = num_evaluation = 0
    for index in range(config.num_days):
        day = config.first_day + datetime.timedelta(days=index)
        for block in _shop.blocks(shop.num_items(index)):
            items.add(synthetic.item_rows(shop, index, block))
        clicks: list[pa.Table] = []
        for block in _shop.blocks(shop.num_users(index)):
            users.add(synthetic.user_rows(shop, index, block))
            clicks.append(synthetic.interactions(shop, index, block))
        made = _Day(pa.concat_tables(clicks), past)
        partition = f"{base.partition(day)}/{_PART}"
        num_train += base.write_parquet(root / "train" / partition, [_train(made, users, items)])
        if index:
            num_evaluation += base.write_parquet(root / "evaluation" / partition, [_evaluation(made, users, items)])
        table = items.all()
        base.write_parquet(root / "items" / partition, [table])
        clicks_I = np.concatenate([clicks_I, np.zeros(table.num_rows - len(clicks_I))])
        clicks_I += np.bincount(made.items - 1, minlength=len(clicks_I))
        write_text(root / "negatives" / f"{base.partition(day)}.txt", _negatives(table, clicks_I**0.75 + 1))
        past = made.past()
        sink(Event(stage=base.STAGE, done=index + 1, total=config.num_days, unit="days", message=f"made {day}"))
    return Counts(config.num_days, num_train, num_evaluation, len(clicks_I))


class _Rows:
    """The last row of each id, which count from 1."""

    def __init__(self, key: str) -> None:
        self._key, self._tables, self._num_rows = key, list[pa.Table](), 0
        self._last = np.zeros(1, np.int64)

    def add(self, table: pa.Table) -> None:
        """Add rows, each in place of that which its id has had."""
        ids = table[self._key].to_numpy()
        grown = np.full(max(len(self._last), int(ids.max(initial=0)) + 1), -1)
        grown[: len(self._last)] = self._last
        grown[ids] = self._num_rows + np.arange(len(ids))
        self._last, self._num_rows = grown, self._num_rows + table.num_rows
        self._tables.append(table)

    def take(self, ids: np.ndarray) -> pa.Table:
        """Return the rows of these ids."""
        self._tables = [pa.concat_tables(self._tables).combine_chunks()]
        return self._tables[0].take(pa.array(self._last[ids]))

    def all(self) -> pa.Table:
        """Return the rows of all ids, by rising id."""
        return self.take(np.arange(1, len(self._last)))


class _Past(NamedTuple):
    """Each user's last clicks, at most `_MAX_LENGTH`: by user, the oldest first."""

    users: np.ndarray
    items: np.ndarray

    def of(self, users: np.ndarray) -> Jagged:
        """Return the items that users [B] clicked."""
        starts, ends = (np.searchsorted(self.users, users, side=side) for side in ("left", "right"))
        return Jagged(self.items[spans(starts, ends - starts)], (ends - starts).astype(np.int32))


class _Day:
    """A day's clicks in the order of users and time, after what each user clicked before.

    users      4  4 |4  4  4| 7 |7 …      between the bars the day's own
    seconds   -1 -1 |9  9 30|-1 |5
    ends              2  2  4     6       where the history of a click ends: before its second
    """

    def __init__(self, clicks: pa.Table, before: _Past) -> None:
        users, items, seconds = (clicks[name].to_numpy() for name in ("user_id", "item_id", "timestamp"))
        seconds_of_all = np.concatenate([np.full(len(before.users), -1), seconds])
        users, items = np.concatenate([before.users, users]), np.concatenate([before.items, items])
        order = np.lexsort((np.arange(len(users)), seconds_of_all, users))
        self._before, self._users, self._items = before, users[order], items[order]
        seconds = seconds_of_all[order]
        begins = np.ones(len(order), bool)
        begins[1:] = (self._users[1:] != self._users[:-1]) | (seconds[1:] != seconds[:-1])
        ends = np.maximum.accumulate(np.where(begins, np.arange(len(order)), 0))
        self._rows = np.flatnonzero(seconds >= 0)
        self._ends = ends[self._rows]
        self.users, self.items = self._users[self._rows], self._items[self._rows]

    def histories(self) -> Jagged:
        """Return what each click's user had clicked before it."""
        starts = np.maximum(np.searchsorted(self._users, self.users), self._ends - _MAX_LENGTH)
        return Jagged(self._items[spans(starts, self._ends - starts)], (self._ends - starts).astype(np.int32))

    def truth(self) -> tuple[np.ndarray, Jagged, Jagged]:
        """Return the users of the day, what each had clicked as it began, and what each clicks on it."""
        users, lengths = np.unique(self.users, return_counts=True)
        return users, self._before.of(users), Jagged(self.items, lengths.astype(np.int32))

    def past(self) -> _Past:
        """Return each user's last clicks as the day ends."""
        ends = np.searchsorted(self._users, self._users, side="right")
        kept = ends - np.arange(len(ends)) <= _MAX_LENGTH
        return _Past(self._users[kept], self._items[kept])


def _train(day: _Day, users: _Rows, items: _Rows) -> pa.Table:
    rows = _query(day.users, day.histories(), users, items).append_column("item_id", pa.array(day.items))
    positive = items.take(day.items)
    for name in _ATTRIBUTES:
        rows = rows.append_column(name, positive[name])
    return rows


def _evaluation(day: _Day, users: _Rows, items: _Rows) -> pa.Table:
    ids, before, truth = day.truth()
    return _query(ids, before, users, items).append_column("gt_items", _list(pa.array(truth.values), truth))


def _query(ids: np.ndarray, history: Jagged, users: _Rows, items: _Rows) -> pa.Table:
    rows = users.take(ids).select(["user_id", *_FIELDS])
    texts = pc.binary_join(_list(pa.array(history.values).cast(pa.string()), history), _SEPARATOR)
    rows = rows.append_column("clicked_items", texts)
    categories = items.take(history.values)["category"].combine_chunks()
    return rows.append_column("clicked_categories", _list(categories, history))


def _list(values: pa.Array, rows: Jagged) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(np.concatenate([[0], np.cumsum(rows.lengths)]), pa.int32()), values)


def _negatives(items: pa.Table, weights: np.ndarray) -> str:
    texts = [items[name].cast(pa.string()).fill_null("").to_pylist() for name in _ATTRIBUTES]
    ids = items["item_id"].to_pylist()
    lines = [f"{i}\t{weight:.6g}\t{':'.join(fields)}" for i, weight, *fields in zip(ids, weights, *texts, strict=True)]
    return "\n".join(["id:int64\tweight:float\tattrs:string", *lines, ""])
