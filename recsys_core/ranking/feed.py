"""From labelled rows to batches: both sides of each row encoded, with its labels and weights by task."""

import pyarrow as pa
import torch
from torch import Tensor

from recsys_core.columns import plain
from recsys_core.features import Engine, counting_from
from recsys_core.loading.batch import LabelledBatch, dense, jagged, numbers
from recsys_core.loading.collate import Source
from recsys_core.loading.rank_batches import Rows
from recsys_core.ranking import Config


class LabelledFeed(Source[LabelledBatch]):
    """Batches of labelled rows; of a table that is only scored, without a `config`, they have no labels."""

    def __init__(self, engine: Engine, config: Config | None) -> None:
        """`config` says what the columns of the rows mean."""
        self._engine, self._config = engine, config
        used = [*engine.columns("query"), *engine.columns("item")]
        if config is not None:
            used += [*config.label_columns, *filter(None, [config.sample_weight])]
        self.columns = list(dict.fromkeys(used))

    def batch(self, rows: Rows, *, epoch: int = 0, step: int = 0) -> LabelledBatch:  # noqa: ARG002 - nothing is drawn here
        """See `Source.batch`."""
        with counting_from(rows.number):
            query, item = self._engine.transform(rows.batch, "query"), self._engine.transform(rows.batch, "item")
        labels, weights = ({}, {}) if self._config is None else labelled(rows.table, self._config)
        return LabelledBatch(
            sparse=jagged(query, item, rows.most_rows),
            dense_BF=dense(query, item),
            labels=labels,
            weights=weights,
            global_rows=rows.global_rows,
            numbers=numbers(query, item),
        )


def labelled(table: pa.Table, config: Config) -> tuple[dict[str, Tensor], dict[str, Tensor | None]]:
    """Return each task's labels and weights [B], of rows that were looked at when the data was prepared."""
    labels = {name: _floats(table, task.label) for name, task in config.named.items()}
    weights_B = _floats(table, config.sample_weight) if config.sample_weight else None
    weights: dict[str, Tensor | None] = {}
    positive = {name: labels_B > 0.5 for name, labels_B in labels.items()} if config.tasks else {}
    for name, labels_B in labels.items():
        rows_B = config.rows_of(name, positive)
        if rows_B is None:
            weights[name] = weights_B
            continue
        # A label outside of the task's rows may be null, and counts for nothing.
        labels[name] = torch.where(rows_B, labels_B, 0.0)
        weights[name] = rows_B.float() if weights_B is None else weights_B * rows_B
    return labels, weights


def _floats(table: pa.Table, column: str) -> Tensor:
    numbers = plain(table.column(column).combine_chunks())
    return torch.from_numpy(numbers.cast(pa.float32()).to_numpy(zero_copy_only=False).copy())
