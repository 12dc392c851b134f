"""Cells on disk: an index for more items than fit in memory, built in shards that are merged into one file.

Vectors lie in a file that is mapped, and a shard holds as many of them as the memory that is given allows. A search
reads the cells that it visits, and the system keeps in memory what there is room for.

Legend: see `base`.
"""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa

from recsys_core.indexes import _faiss, base
from recsys_core.progress import Event, Sink

if TYPE_CHECKING:
    import faiss

# FAISS's k-means takes no more vectors for each cell, and none fewer.
_MOST_OF_A_CELL, _LEAST_OF_A_CELL = 256, 39
# The process itself, and the chunks that are read and compared.
_FIXED_BYTES = 400 << 20
# A list that grows holds up to twice its size.
_GROWTH = 2
_ID_BYTES = 8
_FEWEST_ROWS = 65_536
_ROWS_AT_ONCE = 65_536
_GB = 1e9


class Plan(NamedTuple):
    """How an index is built, and what that takes; `memory_bytes` is what it takes at most."""

    factory: str
    reason: str
    num_training_rows: int
    shard_rows: int
    memory_bytes: int
    disk_bytes: int

    def describe(self, num_items: int) -> str:
        """Say it in a line."""
        num_shards = -(-num_items // self.shard_rows)
        return (
            f"{self.factory}, {self.reason}; {num_shards:,} shard(s) of {self.shard_rows:,} items, at most "
            f"{self.memory_bytes / _GB:.2f} GB of memory, {self.disk_bytes / _GB:.2f} GB of disk while it is built"
        )


def plan(
    config: _faiss.Config, num_items: int, dim: int, metric: base.Metric, *, id_bytes: int, memory_bytes: int
) -> Plan:
    """Divide the memory; `id_bytes` are those of all ids, which stay in it.

    Raises:
        ValueError: it is too little, or the kind has no cells; says what is needed.
    """
    factory, reason = config.layout(num_items, dim)
    cells = _cells(_faiss.empty(dim, factory, metric), factory)
    vector_bytes = 4 * dim
    least = min(num_items, max(_LEAST_OF_A_CELL * cells.nlist, config.num_training_rows))
    # Ids are sorted once, to find those that are there twice.
    fixed = _FIXED_BYTES + 2 * id_bytes + 3 * cells.nlist * vector_bytes
    row_bytes = _GROWTH * (cells.code_size + _ID_BYTES)
    training_bytes = 2 * vector_bytes + 16
    needed = fixed + max(least * training_bytes, min(num_items, _FEWEST_ROWS) * row_bytes)
    if memory_bytes < needed:
        raise ValueError(
            f"index: to build {factory} of {num_items:,} items of {dim} dimensions takes at least "
            f"{needed / _GB:.2f} GB of memory, and {memory_bytes / _GB:.2f} GB are allowed; allow more, or name fewer "
            "cells (nlist)"
        )
    left = memory_bytes - fixed
    shard_rows = min(num_items, left // row_bytes)
    training_rows = max(
        least, min(num_items, max(_MOST_OF_A_CELL * cells.nlist, config.num_training_rows), left // training_bytes)
    )
    most = fixed + max(training_rows * training_bytes, shard_rows * row_bytes)
    # The vectors, the shards, and the cells that these are merged into.
    disk_bytes = num_items * (vector_bytes + 2 * (cells.code_size + _ID_BYTES))
    return Plan(factory, reason, training_rows, shard_rows, most, disk_bytes)


def build(
    config: _faiss.Config,
    made: Plan,
    vectors_ID: np.ndarray,
    ids: pa.Array,
    metric: base.Metric,
    seed: int,
    folder: Path,
    sink: Sink,
) -> _faiss.Index:
    """Build the index of mapped vectors, its cells in `folder`; shards lie there meanwhile."""
    import faiss
    from faiss.contrib import ondisk

    num_items, dim = vectors_ID.shape
    index = _faiss.empty(dim, made.factory, metric)
    _faiss.seeded(index, seed)
    config.prepare(index)
    event = Event(stage="index", total=num_items)
    if not index.is_trained:
        sink(event.model_copy(update={"message": f"training {made.factory} on {made.num_training_rows:,} items"}))
        rows = np.unique(np.linspace(0, num_items - 1, made.num_training_rows).astype(np.int64))
        some = _of_metric(vectors_ID[rows], metric)
        index.train(np.resize(some, (max(len(some), config.num_training_rows), dim)))
        del some
    empty = folder / "trained.faiss"
    faiss.write_index(index, str(empty))
    shards: list[Path] = []
    for start in range(0, num_items, made.shard_rows):
        stop = min(start + made.shard_rows, num_items)
        shard = faiss.read_index(str(empty))
        for at in range(start, stop, _ROWS_AT_ONCE):
            end = min(at + _ROWS_AT_ONCE, stop)
            shard.add_with_ids(_of_metric(vectors_ID[at:end], metric), np.arange(at, end))
            message = f"filling shard {len(shards) + 1}"
            sink(event.model_copy(update={"done": end, "message": message}))
        shards.append(folder / f"shard-{len(shards):05d}.faiss")
        faiss.write_index(shard, str(shards[-1]))
    sink(event.model_copy(update={"done": num_items, "message": f"merging {len(shards)} shard(s)"}))
    with _faiss.stdout_is_stderr():
        ondisk.merge_ondisk(index, [str(shard) for shard in shards], str(folder / _faiss.DATA))
    for file in (empty, *shards):
        file.unlink()
    found = _faiss.Index(config.kind, metric, ids, index, made.factory)
    if config.value is not None:
        found.visit(config.value)
    return found


def _of_metric(vectors_ND: np.ndarray, metric: base.Metric) -> np.ndarray:
    return _faiss.normalized(vectors_ND) if metric == "cosine" else np.ascontiguousarray(vectors_ND)


def _cells(index: "faiss.Index", factory: str) -> "faiss.IndexIVF":
    import faiss

    within = faiss.downcast_index(index.index) if isinstance(index, faiss.IndexPreTransform) else index
    if isinstance(within, faiss.IndexIVF) and isinstance(
        faiss.downcast_InvertedLists(within.invlists), faiss.ArrayInvertedLists
    ):
        return within
    raise ValueError(f"index: {factory} has no cells that can lie on disk; take ivf_flat or ivf_pq")
