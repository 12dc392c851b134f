"""The index stage: every kind on any number of items, the same bytes for the same seed, and what it refuses."""

from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys_core import artifacts, indexes, lookup
from recsys_core.artifacts import Embeddings, Index
from recsys_core.indexes import flat, ivf_flat
from recsys_core.progress import Event, silent
from recsys_core.retrieval import index

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
    return index.Request(output=directory / "index", config=config, embeddings=embeddings, seed=3, **common)


def build(vectors_ID: np.ndarray, seed: int = 0, metric: indexes.Metric = "ip", **config: object) -> indexes.Index:
    kind = lookup.component(indexes.CATALOGUE, str(config["kind"])).Config.model_validate(config)
    return indexes.build(kind, vectors_ID, pa.array(range(len(vectors_ID))), metric, seed, silent)


KINDS = {
    "flat": {},
    "ivf_flat": {},
    "ivf_pq": {"pq_m": DIM, "pq_bits": 4},
    "hnsw": {"ef_construction": 40},
    "sq8": {},
    "fp16": {},
    "factory": {"factory": "HNSW32,SQ8"},
}


def test_all_kinds_are_tested():
    assert [*lookup.kinds(indexes.CATALOGUE)] == sorted(KINDS)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_items", [1, 2, 40, 500])
def test_every_kind_works_for_any_number_of_items(tmp_path: Path, kind: str, num_items: int):
    items = vectors(num_items)
    ids = pa.array([f"item {number}" for number in range(num_items)])
    events: list[Event] = []
    record = index.run(request(tmp_path, items, ids, kind=kind, **KINDS[kind]), events.append)
    assert Index.load(record.path) == record
    assert (record.kind, record.num_items, record.embedding_dim, record.num_rows) == (kind, num_items, DIM, num_items)
    assert pq.read_table(record.id_map)["item_id"].combine_chunks().equals(ids)
    assert (events[-1].done, events[-1].total) == (num_items, num_items)
    # Unit vectors: each item is its own nearest, but for those whose codes are alike.
    loaded = faiss.read_index(str(record.faiss))
    own = loaded.search(items, 1)[1][:, 0] == np.arange(num_items)
    assert own.mean() > 0.9
    if not indexes.load(record.path).is_lossy:
        assert own.all()


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
    assert ivf_flat.Config().layout(num_items, DIM).factory == f"IVF{cells},Flat"


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_makes_the_same_bytes_on_any_number_of_threads(kind: str):
    items, threads = vectors(1_000), faiss.omp_get_max_threads()
    try:
        made = []
        for num_threads, seed in ((1, 1), (4, 1), (2, 2)):
            faiss.omp_set_num_threads(num_threads)
            made.append(faiss.serialize_index(build(items, seed, kind=kind, **KINDS[kind]).faiss))
    finally:
        faiss.omp_set_num_threads(threads)
    assert made[0].tobytes() == made[1].tobytes()
    if kind not in ("flat", "sq8", "fp16"):
        assert made[0].tobytes() != made[2].tobytes()


def test_of_more_cells_than_items_there_are_as_many_as_items(tmp_path: Path):
    events: list[Event] = []
    asked = request(tmp_path, vectors(20), pa.array(range(20)), kind="ivf_flat", nlist=30)
    assert index.run(asked, events.append).factory == "IVF20,Flat"
    assert events[0].message == "plan: IVF20,Flat, nlist 30 is more than the 20 items, so that each has a cell"


def test_a_build_that_fails_leaves_nothing_behind(tmp_path: Path):
    asked = request(tmp_path, vectors(20), pa.array(["twice"] * 20), kind="flat")
    with pytest.raises(ValueError, match="item_id 'twice' stands there more than once"):
        index.run(asked, silent)
    assert [path.name for path in tmp_path.iterdir()] == ["embed"]


@pytest.mark.parametrize("kind", ["ivf_flat", "hnsw", "flat"])
def test_an_index_of_before_there_were_settings_is_read(tmp_path: Path, kind: str):
    items = vectors(200)
    record = index.run(request(tmp_path, items, pa.array(range(200)), kind=kind), silent)
    (record.path / "index.json").unlink()
    loaded = indexes.load(record.path)
    assert (loaded.metric, loaded.num_rows, loaded.dim) == ("ip", 200, DIM)
    assert loaded.search(items, 1)[1][:, 0].tolist() == list(range(200))


def test_the_keys_of_another_kind_are_refused_but_as_a_config_showed_them(tmp_path: Path):
    shown = {"nlist": None, "nprobe": 64, "hnsw_m": 32, "ef_construction": 200, "ef_search": 256}
    for kind in ("flat", "hnsw", "ivf_flat"):
        known = lookup.component(indexes.CATALOGUE, kind).Config
        assert known.model_validate(shown | {"kind": kind}) == known.model_validate(
            {key: value for key, value in shown.items() if key in known.model_fields}
        )
    with pytest.raises(ValueError, match="hnsw_m: has no effect with kind ivf_flat, only with hnsw; remove it"):
        ivf_flat.Config.model_validate({"hnsw_m": 16})
    with pytest.raises(ValueError, match="extra_forbidden"):
        ivf_flat.Config.model_validate({"hnsw": 16})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("metric", ["ip", "l2", "cosine"])
def test_every_kind_ranks_by_every_metric(tmp_path: Path, kind: str, metric: indexes.Metric):
    rng = np.random.default_rng(1)
    items, queries = (rng.normal(size=(rows, DIM)).astype(np.float32) for rows in (300, 20))
    made = build(items, metric=metric, kind=kind, **KINDS[kind])
    made.save(tmp_path)
    loaded = indexes.load(tmp_path)
    scores, rows = loaded.search(queries, 7, loaded.whole)
    products = queries @ items.T
    lengths = np.linalg.norm(items, axis=1)
    if metric == "cosine":
        products /= np.linalg.norm(queries, axis=1)[:, None] * lengths
    if metric == "l2":
        products = -((queries[:, None] - items[None]) ** 2).sum(axis=2)
    best = np.argsort(-products, axis=1)[:, :7]
    if made.is_lossy:
        assert np.mean([len({*a} & {*b}) / 7 for a, b in zip(rows, best, strict=True)]) > 0.8
        products = np.take_along_axis(products, rows, axis=1)
        assert np.allclose(scores, products, atol=0.1 * np.abs(products).max())
    else:
        assert rows.tolist() == best.tolist()
        assert np.allclose(scores, np.take_along_axis(products, best, axis=1), atol=1e-5)
        # What is exact may be compared with: no index is made for it.
        exact = flat.search(items, queries, 7, metric)
        assert exact[1].tolist() == best.tolist()
        assert np.allclose(exact[0], scores, atol=1e-5)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"kind": "ivf_pq", "pq_m": 3},
            r"pq_m: 3 does not divide the 8 numbers of a vector; use one of 1, 2, 4, 8",
        ),
        ({"kind": "factory", "factory": "IVFx"}, "index.factory: 'IVFx' of 8 dimensions: could not parse index string"),
        (
            {"kind": "factory", "factory": "Flat", "nprobe": 3},
            r"nprobe: Flat has nothing of the kind; remove it",
        ),
        ({"kind": "factory", "factory": "HNSW8", "nprobe": 3}, r"index\.nprobe: HNSW8 has ef_search; remove it"),
        ({"kind": "factory", "factory": "IVF4000,Flat"}, "cannot be trained on 90 items: Number of training points"),
    ],
)
def test_what_faiss_cannot_do_is_one_line(config: dict, message: str):
    with pytest.raises(ValueError, match=message) as refused:
        build(vectors(90), **config)
    assert "/" not in str(refused.value)
