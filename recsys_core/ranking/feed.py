"""From labelled rows to batches: both sides of each row encoded, with its labels and weights by task."""

import numpy as np
import pyarrow as pa
import torch
import xxhash
from torch import Tensor

from recsys_core.columns import ids, plain
from recsys_core.features import Engine, Side, counting_from
from recsys_core.loading.batch import LabelledBatch, dense, jagged, numbers
from recsys_core.loading.collate import Source
from recsys_core.loading.rank_batches import Rows
from recsys_core.ranking import Config

# What stands for a null among whole numbers: the one that no upstream system counts up to.
_NO_GROUP = -(1 << 63)
_SIDES: tuple[Side, Side] = ("query", "item")


class LabelledFeed(Source[LabelledBatch]):
    """Batches of labelled rows; of a table that is only scored, without a `config`, they have no labels."""

    def __init__(self, engine: Engine, config: Config | None, *, training: bool = False, groups: bool = False) -> None:
        """`config` says what the columns of the rows mean; only what is in `training` reads those fixed at serving.

        `groups`: whether batches have the rows' groups.
        """
        self._engine, self._config, self._training = engine, config, training
        self._group = config.group if groups and config is not None else None
        columns = engine.training_columns if training else engine.columns
        used = [*columns("query"), *columns("item")]
        if config is not None:
            used += [*config.label_columns, *config.weight_columns, *filter(None, [self._group])]
        self.columns = list(dict.fromkeys(used))

    def batch(self, rows: Rows, *, epoch: int = 0, step: int = 0) -> LabelledBatch:  # noqa: ARG002 - nothing is drawn here
        """See `Source.batch`."""
        with counting_from(rows.number):
            query, item = (self._engine.transform(rows.batch, side, training=self._training) for side in _SIDES)
        labels, weights = ({}, {}) if self._config is None else labelled(rows.table, self._config)
        return LabelledBatch(
            sparse=jagged(query, item, rows.most_rows),
            dense_BF=dense(query, item),
            labels=labels,
            weights=weights,
            global_rows=rows.global_rows,
            numbers=numbers(query, item),
            groups_B=torch.from_numpy(group_numbers(rows.table, self._group)) if self._group else None,
        )


def labelled(table: pa.Table, config: Config) -> tuple[dict[str, Tensor], dict[str, Tensor | None]]:
    """Return each task's labels and weights [B], of rows that were looked at when the data was prepared."""
    labels = {name: _floats(table, task.label) for name, task in config.named.items()}
    weights: dict[str, Tensor | None] = {}
    positive = {name: labels_B > 0.5 for name, labels_B in labels.items()} if config.tasks else {}
    for name, labels_B in labels.items():
        rows_B, column = config.rows_of(name, positive), config.weight_column(name)
        weights[name] = weights_B = _floats(table, column) if column else None
        if rows_B is None:
            continue
        # A label outside of the task's rows may be null. It counts for nothing, or over all rows as a negative.
        labels[name] = torch.where(rows_B, labels_B, 0.0)
        if config.named[name].space == "given":
            weights[name] = rows_B.float() if weights_B is None else weights_B * rows_B
    return labels, weights


def group_numbers(table: pa.Table, group: str) -> np.ndarray:
    """Return a number for each row's group, int64 [B], the same on every rank: the value itself, or its text's hash."""
    column = ids(table.column(group).combine_chunks())
    if pa.types.is_int64(column.type):
        return np.array(column.fill_null(_NO_GROUP))
    distinct = column.dictionary_encode()
    texts = [str(value).encode() for value in distinct.dictionary.to_pylist()]
    # A null is no user, but its rows are one group all the same: those of unknown users.
    hashes = np.array([*map(xxhash.xxh3_64_intdigest, texts), 0], dtype=np.uint64).view(np.int64)
    return hashes[distinct.indices.fill_null(len(texts)).to_numpy(zero_copy_only=False)]


def _floats(table: pa.Table, column: str) -> Tensor:
    numbers = plain(table.column(column).combine_chunks())
    return torch.from_numpy(numbers.cast(pa.float32()).to_numpy(zero_copy_only=False).copy())
