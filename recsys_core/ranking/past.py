"""What the rows before the measured ones say without a model: rates of positives, and which users and items there were.

Legend: B rows.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys_core import columns, readers
from recsys_core.artifacts.ranking import Predicts
from recsys_core.ranking import Config
from recsys_core.ranking.prepare.labels import blocks, naming

# The overall rate weighs as much as this many rows of an item: with 20 rows of its own an item is half-way to its rate.
_PRIOR_ROWS = 20.0


class Past(NamedTuple):
    """Weights of past rows: of all and of the positive ones, and both by group and by item, as `key, rows, positives`.

    Of a task of values `positives` are the weighted sums of labels. A table is None where the config names no such
    column.
    """

    rows: float
    positives: float
    groups: pa.Table | None
    items: pa.Table | None
    predicts: Predicts = "probability"

    @property
    def rate(self) -> float:
        """The share of positives, half a row of each label added, so that it is a probability; or the mean label."""
        if self.predicts != "probability":
            return self.positives / self.rows
        return (self.positives + 0.5) / (self.rows + 1)

    def item_rates(self, items_B: pa.Array) -> np.ndarray:
        """float64 [B]: the past rate of each row's item, drawn to that of all rows the fewer rows of it there were."""
        assert self.items is not None
        at = _places(items_B, self.items)
        known = at >= 0
        rows, positives = np.zeros(len(items_B)), np.zeros(len(items_B))
        rows[known] = self.items["rows"].to_numpy()[at[known]]
        positives[known] = self.items["positives"].to_numpy()[at[known]]
        return (positives + _PRIOR_ROWS * self.rate) / (rows + _PRIOR_ROWS)

    def is_new_group(self, groups_B: pa.Array) -> np.ndarray:
        """Return whether a row's group had no row, bool [B]; the rows without a group are one group."""
        assert self.groups is not None
        return _places(groups_B, self.groups) < 0

    def is_cold(self, items_B: pa.Array) -> np.ndarray:
        """Return whether a row's item had no row, bool [B]."""
        assert self.items is not None
        return _places(items_B, self.items) < 0


def read(tables: Iterable[readers.Reader], config: Config, task: str) -> Past:
    """Count the rows of `tables`, block by block; rates are those of a task, among the rows that are of it.

    Raises:
        ValueError: a group or an item is no id; names the row.
    """
    totals, keys = np.zeros(2), {"group": config.group, "item": config.item}
    found: dict[str, list[pa.Table]] = {name: [] for name, column in keys.items() if column is not None}
    labels_of_it = (config.named[name].label for name in config.given(task))
    used = list(dict.fromkeys(filter(None, (*labels_of_it, config.weight_column(task), config.group, config.item))))
    for reader in tables:
        for block, table in enumerate(blocks(reader, used)):
            labels, weights = labels_of(table, config, task), weights_of(table, config, task)
            if (kept := kept_for(table, config, task)) is not None:
                # Without a weight a row makes no rate, and its group and its item have been seen all the same.
                weights = weights * kept
            totals += weights.sum(), weights @ labels
            for name, parts in found.items():
                with naming(reader.place(block)):
                    column = by_id(table.column(keys[name]))
                parts.append(_summed(pa.table({"key": column, "rows": weights, "positives": weights * labels})))
    summed = {name: _summed(_united(parts)) if parts else _EMPTY for name, parts in found.items()}
    num_rows, num_positives = totals.tolist()
    return Past(num_rows, num_positives, summed.get("group"), summed.get("item"), config.named[task].predicts)


def positive(table: pa.Table, label: str) -> np.ndarray:
    """Return which rows have a label of 1, bool [B]; a null is none."""
    labels = columns.by_chunk(columns.plain, table.column(label))
    return pc.fill_null(labels.cast(pa.float64()), 0.0).to_numpy() > 0.5


def labels_of(table: pa.Table, config: Config, task: str) -> np.ndarray:
    """Return a task's labels: which rows are positive, bool [B], or values, float64 [B], 0 where there is none."""
    own = config.named[task]
    if own.predicts == "probability":
        return positive(table, own.label)
    return pc.fill_null(columns.by_chunk(columns.plain, table.column(own.label)).cast(pa.float64()), 0.0).to_numpy()


def kept_for(table: pa.Table, config: Config, task: str) -> np.ndarray | None:
    """Return which rows are of a task, bool [B]; None for all."""
    return config.rows_of(task, {name: positive(table, config.named[name].label) for name in config.given(task)})


def weights_of(table: pa.Table, config: Config, task: str) -> np.ndarray:
    """Return the weights in a task, float64 [B], of rows that ingest has checked."""
    if (column := config.weight_column(task)) is None:
        return np.ones(table.num_rows)
    return columns.by_chunk(columns.plain, table.column(column)).cast(pa.float64()).to_numpy()


def by_id(column: pa.ChunkedArray) -> pa.Array:
    """Return a column's ids: int64 or string [B].

    Raises:
        RowError: one is no id.
    """
    return columns.by_chunk(columns.ids, column).combine_chunks()


_EMPTY = pa.table({"key": pa.array([], pa.string()), "rows": np.zeros(0), "positives": np.zeros(0)})


def _summed(table: pa.Table) -> pa.Table:
    summed = table.group_by("key").aggregate([("rows", "sum"), ("positives", "sum")])
    return summed.rename_columns({"rows_sum": "rows", "positives_sum": "positives"}).select(table.column_names)


def _united(parts: list[pa.Table]) -> pa.Table:
    if len({part["key"].type for part in parts}) > 1:
        parts = [part.set_column(0, "key", part["key"].cast(pa.string())) for part in parts]
    return pa.concat_tables(parts)


def _places(keys: pa.Array, table: pa.Table) -> np.ndarray:
    """int64 [B]: the row of each key in `table`; -1 where it is in none. A null is a key like any other."""
    known = table["key"].combine_chunks()
    if known.type != keys.type:
        known, keys = known.cast(pa.string()), keys.cast(pa.string())
    return pc.index_in(keys, value_set=known).fill_null(-1).to_numpy().astype(np.int64)
