"""Indexes, one kind per file: item vectors in a layout that finds those closest to a query."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys_core import integrity, lookup
from recsys_core.indexes.base import ID_MAP, SETTINGS, Config, Index, Metric, Settings
from recsys_core.progress import Sink

__all__ = ["CATALOGUE", "Config", "Index", "Metric", "build", "load"]

CATALOGUE = __name__


def build(config: Config, vectors_ID: np.ndarray, ids: pa.Array, metric: Metric, seed: int, sink: Sink) -> Index:
    """Build the index that `config`, of any kind, describes; row i of it is `vectors_ID[i]`, the item `ids[i]`.

    Raises:
        ValueError: the kind cannot hold such vectors; names the key.
    """
    return lookup.content(CATALOGUE, config.kind).build(config, vectors_ID, ids, metric, seed, sink)


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
