"""What an evaluation leaves beside its figures: a row per query, for a look into a bad day, and how it was measured."""

from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from recsys_core import readers
from recsys_core.retrieval.hit_rate.contenders import Block, Day

_NUM_TOP_ITEMS = 50


class Details:
    """Writes `user_id, num_gt, num_seen, hits_at_<K> …, top_items` per query, as the blocks come.

    `top_items` is the head of the masked exact list, at most 50 item ids, best first.
    """

    def __init__(self, path: Path, day: Day) -> None:
        """Open `path`, a Parquet file."""
        self._day = day
        hits = [pa.field(f"hits_at_{k}", pa.int32()) for k in day.ks]
        self._schema = pa.schema(
            [
                pa.field("user_id", day.queries.users.type),
                pa.field("num_gt", pa.int32()),
                pa.field("num_seen", pa.int32()),
                *hits,
                pa.field("top_items", pa.list_(day.items.type)),
            ]
        )
        self._writer = pq.ParquetWriter(path, self._schema, compression="zstd")

    def write(self, block: Block) -> None:
        """Add one block of queries."""
        rows, top = block.rows, block.ids[:, : min(max(self._day.ks), _NUM_TOP_ITEMS)]
        offsets = np.concatenate([[0], np.cumsum((top >= 0).sum(axis=1))]).astype(np.int32)
        columns = [
            self._day.queries.users.take(pa.array(rows)),
            self._day.queries.truth.lengths[rows].astype(np.int32),
            self._day.queries.seen.lengths[rows].astype(np.int32),
            *block.hits.astype(np.int32).T,
            pa.ListArray.from_arrays(pa.array(offsets), self._day.items.take(pa.array(top[top >= 0]))),
        ]
        arrays = [pa.array(column) if isinstance(column, np.ndarray) else column for column in columns]
        self._writer.write_batch(pa.record_batch(arrays, schema=self._schema))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()


def ground_truth_digest(folder: Path) -> str:
    """Digest of each user's ground-truth items: the same for any order of the rows, and for any model."""
    table = readers.read_all(readers.opened(folder), ["user_id", "gt_items"]).combine_chunks()
    lists = table["gt_items"].combine_chunks()
    pairs = pa.table({"user": table["user_id"].take(pc.list_parent_indices(lists)), "item": lists.flatten()})
    content = xxhash.xxh3_128()
    for column in pairs.sort_by([("user", "ascending"), ("item", "ascending")]).columns:
        texts = column.cast(pa.large_string()).combine_chunks()
        _, ends, characters = texts.buffers()
        content.update(pc.binary_length(texts).to_numpy().tobytes())
        content.update(characters.slice(0, int(np.frombuffer(ends, np.int64)[len(texts)])))
    return content.hexdigest()


def protocol(day: Day, split: str, search: str, of_log: str) -> str:
    """Say how the figures were measured, in words that can stand beside them.

    `split` says how the ground truth was divided from what was learned, `of_log` what the baselines that learn from
    the log have learned.
    """
    truth = day.queries.truth
    masked = "items that the user interacted with before are masked" if len(day.mask.values) else "nothing is masked"
    return (
        f"{split}Full ranking over {len(day.items)} items; {masked}. {len(truth.values)} ground-truth items of "
        f"{len(day.queries.users)} queries, of which {int((truth.values < 0).sum())} are not in the item table and "
        f"{day.num_masked} are masked: they stay in the denominators and cannot be found. Ties count against the "
        f"model: an item's rank is the last among its equals. hit rate: hits over ground-truth items, both summed; "
        f"recall: mean over queries of found over relevant; ANN recall: share of the exact top K that {search} "
        f"returns. popularity: the item table's num_interactions; {of_log}. Baselines' ties stand in a fixed order."
    )
