"""From rows to batches: queries, their positives and negatives. Legend: B queries, N negatives, M = B + N items."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from recsys_core import lookup, readers
from recsys_core.artifacts import ComponentConfig
from recsys_core.features import Engine, counting_from
from recsys_core.loading.batch import Batch
from recsys_core.loading.collate import Source
from recsys_core.loading.rank_batches import Rows


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


class Feed(Source[Batch]):
    """Batches of one rank; draws depend on (seed, epoch, step, rank) alone, so a resumed run draws the same."""

    def __init__(self, engine: Engine, items: ItemTable, sampler: ComponentConfig, *, seed: int, rank: int) -> None:
        """`sampler` is the config of a component of `recsys_core.samplers`."""
        self._engine, self._items, self._seed, self._rank = engine, items, seed, rank
        self._sampler = lookup.component("recsys_core.samplers", sampler.kind).Sampler(sampler, items.sampling_weight)
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
