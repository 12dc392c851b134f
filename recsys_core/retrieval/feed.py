"""From rows to batches: queries, their positives and negatives.

Legend: B queries, N negatives, M items, T targets of whole sequences.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from recsys_core import lookup, readers
from recsys_core.artifacts import KNOWN, TARGETS, ComponentConfig
from recsys_core.features import Encoded, Engine, counting_from
from recsys_core.loading.batch import Batch, Targets
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
    """Batches of one rank; draws depend on (seed, epoch, step, rank) alone, so a resumed run draws the same.

    Attributes:
        num_negatives: N.
    """

    def __init__(
        self, engine: Engine, items: ItemTable, sampler: ComponentConfig | None, *, seed: int, rank: int
    ) -> None:
        """`sampler` is the config of a component of `recsys_core.samplers`; None: all items are negatives."""
        self._engine, self._items, self._seed, self._rank = engine, items, seed, rank
        self._sampler = None
        if sampler is not None:
            drawing = lookup.component("recsys_core.samplers", sampler.kind).Sampler
            self._sampler = drawing(sampler, items.sampling_weight)
        self._every = np.arange(len(items.ids))
        self.num_negatives: int = len(self._every) if self._sampler is None else self._sampler.num_negatives
        self.columns = ["item_id", *engine.columns("query")]

    def log_expected(self, num_queries: float, *, in_batch: bool) -> torch.Tensor:
        """Return the log of how often each item is expected among a batch's negatives, [num_items] float32."""
        counts = np.ones(len(self._every))
        if self._sampler is not None:
            counts = np.exp(self._sampler.log_probability.astype(np.float64)) * self.num_negatives
        if in_batch:
            counts += self._items.num_interactions / max(self._items.num_interactions.sum(), 1) * num_queries
        smallest = counts[counts > 0].min()
        return torch.from_numpy(np.log(np.maximum(counts, smallest)).astype(np.float32))

    def batch(self, rows: Rows, *, epoch: int, step: int) -> Batch:
        """See `Source.batch`."""
        positives = self._positives(rows.batch.column("item_id"))
        item_rows = np.concatenate([positives, self._negatives(epoch, step)])
        with counting_from(rows.number):
            query = self._engine.transform(rows.batch, "query")
        items = self._items.encoded.take(item_rows)
        num_rows = rows.most_rows + self.num_negatives
        return Batch.build(query, items, item_rows, num_rows=num_rows, global_rows=rows.global_rows)

    def _negatives(self, epoch: int, step: int) -> np.ndarray:
        if self._sampler is None:
            return self._every
        return self._sampler.draw(np.random.default_rng((self._seed, epoch, step, self._rank)))

    def _positives(self, ids: pa.Array) -> np.ndarray:
        positives = self._items.rows_of(ids)
        if (positives < 0).any():
            missing = ids[int(np.argmin(positives))]
            raise ValueError(f"item {missing} has interactions but is not in the item table; preprocess the day again")
        return positives


class SequenceFeed(Feed):
    """Batches of whole sequences: of each row all its targets, whose items are looked up once each.

    row      targets   known         targets of the batch   (row, known, item)
    a b c    b c d     1 2 3         (0, 1, b) (0, 2, c) (0, 3, d) (1, 0, a)
    (none)   a         0
    """

    def __init__(
        self,
        engine: Engine,
        items: ItemTable,
        sampler: ComponentConfig | None,
        *,
        seed: int,
        rank: int,
        most_targets: int,
    ) -> None:
        """`most_targets` are those that a row has at most."""
        super().__init__(engine, items, sampler, seed=seed, rank=rank)
        self._most_targets = most_targets
        self.columns = [TARGETS, KNOWN, *engine.columns("query")]

    def batch(self, rows: Rows, *, epoch: int, step: int) -> Batch:
        """See `Source.batch`.

        Raises:
            ValueError: a feature has not an embedding for each entry of a history.
        """
        lists = rows.batch.column(TARGETS)
        positives, negatives = self._positives(pc.list_flatten(lists)), self._negatives(epoch, step)
        # Where all items are there, positives are among them.
        distinct, item_T = (self._every[:0], positives)
        if self._sampler is not None:
            distinct, item_T = np.unique(positives, return_inverse=True)
        item_rows = np.concatenate([distinct, negatives])
        with counting_from(rows.number):
            query = self._engine.transform(rows.batch, "query")
        row_T = np.repeat(np.arange(len(lists)), pc.list_value_length(lists).to_numpy())
        known_T = pc.list_flatten(rows.batch.column(KNOWN)).to_numpy().astype(np.int64)
        self._require_every_entry(query, row_T, known_T)
        # As many on every rank, of which each has other targets.
        most = len(item_rows)
        if rows.global_rows > len(lists) and self._sampler is not None:
            most = min(len(self._every), rows.most_rows * self._most_targets) + self.num_negatives
        return Batch.build(
            query,
            self._items.encoded.take(item_rows),
            item_rows,
            num_rows=max(rows.most_rows, most),
            global_rows=rows.global_rows,
            targets=Targets(*map(torch.from_numpy, (row_T, known_T, item_T))),
        )

    def _require_every_entry(self, query: Encoded, row_T: np.ndarray, known_T: np.ndarray) -> None:
        """Check that entries are where `known` counts them: the last target of a row knows its whole history."""
        longest = np.zeros(query.num_rows, np.int64)
        np.maximum.at(longest, row_T, known_T)
        for feature in self._engine.sparse_features("query"):
            lengths = query.sparse[feature.name].lengths
            if feature.pooling == "none" and (lengths != longest).any():
                row = int((lengths != longest).argmax())
                raise ValueError(
                    f"feature {feature.name!r}: {lengths[row]} ids of a history of {longest[row]} entries; whole "
                    "sequences need one for each: let it leave none out (out_of_range, default), and read one id of "
                    "each item"
                )
