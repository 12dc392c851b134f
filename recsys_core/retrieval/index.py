"""The index stage: one model's item vectors in a FAISS index by inner product, and the map from row to item id.

The same vectors and seed make the same bytes, whatever the number of threads.
"""

import math

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys_core import artifacts
from recsys_core.progress import Event, Sink
from recsys_core.retrieval import vectors
from recsys_core.retrieval.requests import IndexConfig as Config
from recsys_core.retrieval.requests import IndexRequest as Request

# FAISS's own lower bound for k-means: fewer training vectors per cell make cells of one or two items.
_MIN_ITEMS_PER_CELL = 39
_ADD_ROWS = 65_536


def run(request: Request, sink: Sink) -> artifacts.Index:
    """Build the index over every item of the embeddings, any number from 1 on.

    Raises:
        ValueError: an item vector with NaN or infinity, an id twice, more cells than items.
    """
    items = vectors.read_items(request.embeddings.items)
    index, factory = build(request.config, items.vectors, request.seed, sink)
    with artifacts.pending(request.output) as aside:
        faiss.write_index(index, str(aside.path / "index.faiss"))
        pq.write_table(pa.table({"item_id": items.ids}), aside.path / "id_map.parquet", compression="zstd")
        return aside.commit(
            artifacts.Index,
            request,
            num_rows=len(items.ids),
            kind=request.config.kind,
            factory=factory,
            embedding_dim=items.vectors.shape[1],
            num_items=len(items.ids),
        )


def build(config: Config, vectors_ID: np.ndarray, seed: int, sink: Sink) -> tuple[faiss.Index, str]:
    """Train and fill an index; FAISS id i is row i of `vectors_ID` (float32).

    Returns:
        The index, with `nprobe` or `ef_search` set (FAISS stores them with it), and its factory string.
    """
    num_items, dim = vectors_ID.shape
    factory = _factory(config, num_items)
    index = faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT)
    if isinstance(index, faiss.IndexIVFFlat):
        index.cp.seed = seed
        # With few items or a stated nlist, small cells are meant: no warning on stderr.
        index.cp.min_points_per_centroid = 1
        index.nprobe = config.nprobe
        sink(Event(stage="index", total=num_items, message=f"training {index.nlist} cells"))
        index.train(vectors_ID)
    elif isinstance(index, faiss.IndexHNSWFlat):
        index.hnsw.rng = faiss.RandomGenerator(seed)
        index.hnsw.efConstruction = config.ef_construction
        index.hnsw.efSearch = config.ef_search
    for start in range(0, num_items, _ADD_ROWS):
        index.add(vectors_ID[start : start + _ADD_ROWS])
        sink(Event(stage="index", done=index.ntotal, total=num_items, message=f"filling {factory}"))
    return index, factory


def _factory(config: Config, num_items: int) -> str:
    if config.kind == "flat":
        return "Flat"
    if config.kind == "hnsw":
        return f"HNSW{config.hnsw_m},Flat"
    if config.nlist is not None and config.nlist > num_items:
        raise ValueError(
            f"index.nlist: {config.nlist} cells for {num_items} items; set it to {num_items} or less, or to null"
        )
    automatic = min(4 * math.isqrt(num_items), num_items // _MIN_ITEMS_PER_CELL)
    return f"IVF{config.nlist or max(1, automatic)},Flat"
