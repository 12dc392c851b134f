"""From rows to training batches.

For retrieval: encode the queries, look up their positives, draw the negatives. The item table is encoded once and kept;
a batch gathers rows of it. For ranking: encode both sides of each row and take its label along.
Legend: B queries or examples, N negatives, M = B + N items.
"""

from abc import ABC, abstractmethod
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from recsys_core import lookup, readers
from recsys_core.artifacts import Frozen
from recsys_core.batch import Batch, LabelledBatch, dense, jagged, numbers, pinned
from recsys_core.columns import plain
from recsys_core.features import Engine, counting_from
from recsys_core.loader import Interval, Rows, Shard, half_of_the_cores, prefetch


class ItemTable:
    """The item table of one day, encoded.

    Attributes:
        ids: [num_items] item ids; a row number stands for an item everywhere below.
        sampling_weight: [num_items] float64.
        num_interactions: [num_items] int64, in the popularity window.
    """

    def __init__(self, directory: Path, engine: Engine) -> None:
        """Read and encode every item under `directory`."""
        table = readers.read_all(readers.opened(directory))
        self.ids = table.column("item_id").combine_chunks()
        self.encoded = engine.transform(table, "item")
        self.sampling_weight = table.column("sampling_weight").to_numpy()
        self.num_interactions = table.column("num_interactions").to_numpy()

    def rows_of(self, ids: pa.Array | pa.ChunkedArray) -> np.ndarray:
        """Return the row of each id, [B] int64, -1 for an id that is not in the table."""
        return pc.fill_null(pc.index_in(ids, value_set=self.ids), -1).to_numpy().astype(np.int64)


class Source(ABC):
    """Makes one rank's batches of its rows.

    Attributes:
        columns: what the rows need.
    """

    columns: list[str]

    @abstractmethod
    def batch(self, rows: Rows, *, epoch: int, step: int) -> Any:
        """Make the batch of one step; several threads may do so for different steps at once."""

    def batches(
        self, shard: Shard, *, epoch: int, step: int, pins: bool = False
    ) -> Generator[tuple[Any, list[Interval]], None, None]:
        """Yield the batches of `shard`, the first of which is step number `step`, with the positions each consumed.

        Threads make them ahead; with `pins` where a GPU copies from. Close the generator to end them early.
        """

        def made(numbered: tuple[int, Rows]) -> tuple[Any, list[Interval]]:
            number, rows = numbered
            batch = self.batch(rows, epoch=epoch, step=number)
            return pinned(batch) if pins else batch, rows.consumed

        return prefetch(enumerate(shard, step), made, num_threads=half_of_the_cores())


class Feed(Source):
    """Batches of one rank; draws depend on (seed, epoch, step, rank) alone, so a resumed run draws the same."""

    def __init__(self, engine: Engine, items: ItemTable, sampler: Frozen, *, seed: int, rank: int) -> None:
        """`sampler` is the config of a component of `recsys_core.samplers`."""
        self._engine, self._items, self._seed, self._rank = engine, items, seed, rank
        kind: str = sampler.kind  # pyright: ignore[reportAttributeAccessIssue] - every component's Config has one
        self._sampler = lookup.component("recsys_core.samplers", kind).Sampler(sampler, items.sampling_weight)
        self.columns = ["item_id", *engine.columns("query")]

    def log_expected(self, num_queries: int, *, in_batch: bool) -> torch.Tensor:
        """Return the log of how often each item is expected among a batch's negatives, [num_items] float32."""
        counts = np.exp(self._sampler.log_probability.astype(np.float64)) * self._sampler.num_negatives
        if in_batch:
            counts += self._items.num_interactions / max(self._items.num_interactions.sum(), 1) * num_queries
        smallest = counts[counts > 0].min()
        return torch.from_numpy(np.log(np.maximum(counts, smallest)).astype(np.float32))

    def batch(self, rows: Rows, *, epoch: int, step: int) -> Batch:
        """See `Source.batch`."""
        rng = np.random.default_rng((self._seed, epoch, step, self._rank))
        ids = rows.batch.column("item_id")
        positives = self._items.rows_of(ids)
        if (positives < 0).any():
            missing = ids[int(np.argmin(positives))]
            raise ValueError(f"item {missing} has interactions but is not in the item table; preprocess the day again")
        item_rows = np.concatenate([positives, self._sampler.draw(rng)])
        with counting_from(rows.number):
            query = self._engine.transform(rows.batch, "query")
        items = self._items.encoded.take(item_rows)
        num_rows = rows.most_rows + self._sampler.num_negatives
        return Batch.build(query, items, item_rows, num_rows=num_rows, global_rows=rows.global_rows)


class LabelledFeed(Source):
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
