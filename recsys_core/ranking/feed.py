"""From labelled rows to batches: both sides of each row encoded, with its label."""

import pyarrow as pa
import torch

from recsys_core.columns import plain
from recsys_core.features import Engine, counting_from
from recsys_core.loading.batch import LabelledBatch, dense, jagged, numbers
from recsys_core.loading.collate import Source
from recsys_core.loading.rank_batches import Rows


class LabelledFeed(Source[LabelledBatch]):
    """Batches of labelled rows. Without a `label` (a table to be scored) every label is 0."""

    def __init__(self, engine: Engine, *, label: str | None, weight: str | None = None) -> None:
        """`label` and `weight` are columns of the rows."""
        self._engine, self._label, self._weight = engine, label, weight
        used = [*engine.columns("query"), *engine.columns("item"), *filter(None, (label, weight))]
        self.columns = list(dict.fromkeys(used))

    def batch(self, rows: Rows, *, epoch: int = 0, step: int = 0) -> LabelledBatch:  # noqa: ARG002 - nothing is drawn here
        """See `Source.batch`."""
        table = rows.table
        with counting_from(rows.number):
            query, item = self._engine.transform(rows.batch, "query"), self._engine.transform(rows.batch, "item")
        return LabelledBatch(
            sparse=jagged(query, item, rows.most_rows),
            dense_BF=dense(query, item),
            labels_B=_floats(table, self._label) if self._label else torch.zeros(table.num_rows),
            weights_B=_floats(table, self._weight) if self._weight else None,
            global_rows=rows.global_rows,
            numbers=numbers(query, item),
        )


def _floats(table: pa.Table, column: str) -> torch.Tensor:
    numbers = plain(table.column(column).combine_chunks())
    return torch.from_numpy(numbers.cast(pa.float32()).to_numpy(zero_copy_only=False).copy())
