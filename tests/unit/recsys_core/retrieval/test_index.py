"""The index stage: every kind on any number of items, the same bytes for the same seed, and what it refuses."""

from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys_core import artifacts
from recsys_core.artifacts import Embeddings, Index
from recsys_core.progress import Event, silent
from recsys_core.retrieval import index
from recsys_core.retrieval.index import build
from recsys_core.retrieval.requests import IndexConfig as Config

DIM = 8


def vectors(num_items: int, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(num_items, DIM)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def request(directory: Path, vectors_ID: np.ndarray, ids: pa.Array, **config: object) -> index.Request:
    class Inputs(artifacts.Request):
        pass

    common = {"config_hash": "c", "code_version": "v"}
    with artifacts.pending(directory / "embed") as aside:
        (aside.path / "items").mkdir()
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors_ID.ravel()), DIM)
        pq.write_table(pa.table({"item_id": ids, "embedding": column}), aside.path / "items" / "part-00000.parquet")
        embeddings = aside.commit(
            Embeddings,
            Inputs(output=directory / "embed", **common),
            num_rows=len(ids),
            embedding_dim=DIM,
            num_items=len(ids),
            num_queries=0,
            model_digest="m",
        )
    return index.Request(
        output=directory / "index", config=Config.model_validate(config), embeddings=embeddings, seed=3, **common
    )


@pytest.mark.parametrize("kind", ["ivf_flat", "hnsw", "flat"])
@pytest.mark.parametrize("num_items", [1, 2, 38, 40, 500])
def test_every_kind_works_for_any_number_of_items(tmp_path: Path, kind: str, num_items: int):
    items = vectors(num_items)
    ids = pa.array([f"item {number}" for number in range(num_items)])
    events: list[Event] = []
    record = index.run(request(tmp_path, items, ids, kind=kind), events.append)
    assert Index.load(record.path) == record
    assert (record.kind, record.num_items, record.embedding_dim, record.num_rows) == (kind, num_items, DIM, num_items)
    assert pq.read_table(record.id_map)["item_id"].combine_chunks().equals(ids)
    assert (events[-1].done, events[-1].total) == (num_items, num_items)
    # Unit vectors: each item is its own nearest.
    loaded = faiss.read_index(str(record.faiss))
    assert loaded.search(items, 1)[1][:, 0].tolist() == list(range(num_items))


@pytest.mark.parametrize("config", [{"kind": "ivf_flat", "nlist": 20, "nprobe": 3}, {"kind": "hnsw", "ef_search": 77}])
def test_what_the_search_visits_is_stored_with_the_index(tmp_path: Path, config: dict):
    record = index.run(request(tmp_path, vectors(100), pa.array(range(100)), **config), silent)
    loaded = faiss.read_index(str(record.faiss))
    if config["kind"] == "hnsw":
        assert loaded.hnsw.efSearch == 77
    else:
        assert (loaded.nlist, loaded.nprobe, record.factory) == (20, 3, "IVF20,Flat")


@pytest.mark.parametrize(
    ("num_items", "cells"), [(1, 1), (77, 1), (78, 2), (1_682, 43), (24_624, 624), (1_000_000, 4_000)]
)
def test_cells_grow_with_the_root_of_the_items_and_none_is_too_small(num_items: int, cells: int):
    assert index._factory(Config(), num_items) == f"IVF{cells},Flat"


@pytest.mark.parametrize("kind", ["ivf_flat", "hnsw", "flat"])
def test_the_same_seed_makes_the_same_bytes_on_any_number_of_threads(kind: str):
    items, threads = vectors(3_000), faiss.omp_get_max_threads()
    try:
        made = []
        for num_threads, seed in ((1, 1), (4, 1), (2, 2)):
            faiss.omp_set_num_threads(num_threads)
            made.append(faiss.serialize_index(build(Config.model_validate({"kind": kind}), items, seed, silent)[0]))
    finally:
        faiss.omp_set_num_threads(threads)
    assert made[0].tobytes() == made[1].tobytes()
    if kind != "flat":
        assert made[0].tobytes() != made[2].tobytes()


def test_more_cells_than_items_are_refused():
    with pytest.raises(ValueError, match=r"index\.nlist: 30 cells for 20 items; set it to 20 or less, or to null"):
        build(Config(nlist=30), vectors(20), 0, silent)


def test_a_failed_build_leaves_nothing_behind(tmp_path: Path):
    with pytest.raises(ValueError, match="cells for 20 items"):
        index.run(request(tmp_path, vectors(20), pa.array(range(20)), nlist=30), silent)
    assert [path.name for path in tmp_path.iterdir()] == ["embed"]
