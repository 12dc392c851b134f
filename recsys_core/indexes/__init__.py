"""Indexes, one kind per file: item vectors in a layout that finds those closest to a query."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys_core import integrity, lookup
from recsys_core.indexes import _faiss, _on_disk
from recsys_core.indexes._on_disk import Plan
from recsys_core.indexes.base import ID_MAP, SETTINGS, Config, Index, Metric, Settings
from recsys_core.progress import Sink

__all__ = ["CATALOGUE", "Config", "Index", "Metric", "Plan", "build", "build_on_disk", "load", "plan_on_disk"]

CATALOGUE = __name__


def build(config: Config, vectors_ID: np.ndarray, ids: pa.Array, metric: Metric, seed: int, sink: Sink) -> Index:
    """Build the index that `config`, of any kind, describes; row i of it is `vectors_ID[i]`, the item `ids[i]`.

    Raises:
        ValueError: the kind cannot hold such vectors; names the key.
    """
    return lookup.content(CATALOGUE, config.kind).build(config, vectors_ID, ids, metric, seed, sink)


def plan_on_disk(config: Config, num_items: int, dim: int, metric: Metric, id_bytes: int, memory_bytes: int) -> Plan:
    """Return how `build_on_disk` would go about it; `id_bytes` are those of all ids.

    Raises:
        ValueError: it needs more memory; says how much. Or the kind has no cells.
    """
    return _on_disk.plan(_of_faiss(config), num_items, dim, metric, id_bytes=id_bytes, memory_bytes=memory_bytes)


def build_on_disk(
    config: Config,
    plan: Plan,
    vectors_ID: np.ndarray,
    ids: pa.Array,
    metric: Metric,
    seed: int,
    folder: Path,
    sink: Sink,
) -> Index:
    """Build as `build` does, of vectors that may be mapped, with the memory of `plan`, its cells in `folder`.

    Where training takes as many of the vectors, it is the same index. It is to be saved in the same folder.
    """
    return _on_disk.build(_of_faiss(config), plan, vectors_ID, ids, metric, seed, folder, sink)


def _of_faiss(config: Config) -> _faiss.Config:
    if isinstance(config, _faiss.Config):
        return config
    raise ValueError(f"index: kind {config.kind} is built in memory only; take ivf_flat or ivf_pq")


def load(folder: Path) -> Index:
    """Load what `Index.save` has left in `folder`; indexes of before there were settings are FAISS's, by any metric.

    Raises:
        ValueError: a part is missing or damaged, or the parts do not belong together; names it.
    """
    settings = Settings(kind="flat")
    if (folder / SETTINGS).exists():
        settings = integrity.read_record(Settings, folder / SETTINGS)
    try:
        ids = pq.read_table(folder / ID_MAP)["item_id"].combine_chunks()
    except (OSError, KeyError, pa.ArrowInvalid) as error:
        raise ValueError(f"{folder / ID_MAP}: cannot be read ({integrity.first_line(error)})") from None
    index = lookup.content(CATALOGUE, settings.kind).load(folder, settings, ids)
    if index.num_rows > len(ids):
        raise ValueError(
            f"{folder}: an index of {index.num_rows} rows beside an id map of {len(ids)}; build the index again"
        )
    assert isinstance(index, Index)
    return index
