"""An index whose cells are on disk: built in shards, it answers as one that was built in memory, wherever it lies."""

import ctypes
import shutil
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys_core import indexes, lookup
from recsys_core.artifacts import Index
from recsys_core.progress import Event, silent
from recsys_core.retrieval import index as stage
from recsys_core.retrieval import own_tables
from recsys_core.retrieval.hit_rate import of_tables
from recsys_core.retrieval.own_tables import ItemTable, RequestTable
from recsys_core.retrieval.vectors import Items

NUM, DIM = 900, 8
KINDS = {
    "ivf_flat": {"nlist": 12},
    "ivf_pq": {"nlist": 12, "pq_bits": 4},
    "factory": {"factory": "PCAR4,IVF12,Flat"},
}
VECTORS = np.random.default_rng(0).normal(size=(NUM, DIM)).astype(np.float32)
QUERIES = np.random.default_rng(1).normal(size=(40, DIM)).astype(np.float32)
ENOUGH = 2_000_000_000


def config_of(kind: str, **more: object) -> indexes.Config:
    return lookup.component(indexes.CATALOGUE, kind).Config.model_validate(KINDS[kind] | more)


def table(root: Path) -> ItemTable:
    ids = [f"i{item}" for item in range(NUM)]
    pq.write_table(pa.table({"id": ids, "v": list(VECTORS)}), root / "items.parquet", row_group_size=70)
    return ItemTable(path=str(root / "items.parquet"), id_column="id", vector_column="v")


@pytest.mark.parametrize("metric", ["ip", "l2", "cosine"])
@pytest.mark.parametrize("kind", KINDS)
def test_shards_answer_as_an_index_in_memory(kind: str, metric: indexes.Metric, tmp_path: Path, capfd):
    config, ids = config_of(kind, nprobe=3), pa.array(range(NUM))
    plan = indexes.plan_on_disk(config, NUM, DIM, metric, ids.nbytes, ENOUGH)._replace(shard_rows=250)
    assert "4 shard(s) of 250 items" in plan.describe(NUM)
    np.save(tmp_path / "vectors.npy", VECTORS)
    mapped = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    (tmp_path / "made").mkdir()
    made = indexes.build_on_disk(config, plan, mapped, ids, metric, 0, tmp_path / "made", silent)
    made.save(tmp_path / "made")
    expected = indexes.build(config, VECTORS, ids, metric, 0, silent)
    # Where it lies now, and nowhere else.
    shutil.move(tmp_path / "made", tmp_path / "moved")
    assert {file.name for file in (tmp_path / "moved").iterdir()} == {
        "cells.ivfdata", "id_map.parquet", "index.faiss", "index.json"
    }  # fmt: skip
    capfd.readouterr()
    found = indexes.load(tmp_path / "moved")
    ctypes.CDLL(None).fflush(None)
    assert capfd.readouterr().out == ""
    assert (found.num_rows, found.value, found.parameter) == (NUM, 3, "nprobe")
    for value in (None, 12):
        scores, rows = found.search(QUERIES, 20, value)
        wanted, wanted_rows = expected.search(QUERIES, 20, value)
        assert rows.tolist() == wanted_rows.tolist()
        np.testing.assert_allclose(scores, wanted, rtol=1e-6)
    plainly = faiss.read_index(str(tmp_path / "moved" / "index.faiss"), faiss.IO_FLAG_ONDISK_SAME_DIR)
    assert (plainly.ntotal, faiss.extract_index_ivf(plainly).nprobe) == (NUM, 3)
    for change in (lambda: found.add(VECTORS[:1], pa.array([NUM])), lambda: found.remove(np.array([0]))):
        with pytest.raises(ValueError, match="whose cells are on disk is not changed; build it anew"):
            change()


def test_a_table_is_built_with_the_memory_that_is_allowed(tmp_path: Path, capfd):
    items, config, said = table(tmp_path), config_of("ivf_flat"), list[Event]()
    request = stage.TableRequest.of(items, config, tmp_path / "out", metric="ip", seed=0, memory_bytes=ENOUGH)
    made = stage.run_table(request, said.append)
    in_memory = stage.run_table(request.model_copy(update={"memory_bytes": None, "output": tmp_path / "b"}), silent)
    assert (made.search, made.ann_recall) == (in_memory.search, in_memory.ann_recall)
    assert (tmp_path / "out" / "recall.json").read_text() == (tmp_path / "b" / "recall.json").read_text()
    # Before anything is read, it is said what it takes.
    assert said[0].message.startswith(
        "plan: IVF12,Flat, as nlist says, 75 items in a cell; 1 shard(s) of 900 items, at"
    )
    assert "of disk while it is built" in said[0].message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "items.parquet", "out"]
    Index.load(tmp_path / "out").verify_here()
    # What FAISS says of its files is among no results.
    ctypes.CDLL(None).fflush(None)
    said_here = capfd.readouterr()
    assert said_here.out == ""
    assert "resizing" in said_here.err


@pytest.mark.parametrize(
    ("kind", "keys", "memory", "message"),
    [
        (
            "ivf_flat",
            {},
            10**6,
            r"IVF12,Flat of 900 items of 8 dimensions takes at least 0\.\d\d GB of memory, and 0\.00",
        ),
        ("factory", {"factory": "HNSW8"}, ENOUGH, r"HNSW8 has no cells that can lie on disk; take ivf_flat or ivf_pq"),
        ("factory", {"factory": "IVF4,PQ4x4fs"}, ENOUGH, r"IVF4,PQ4x4fs has no cells that can lie on disk"),
    ],
)
def test_what_does_not_fit_is_refused_before_it_is_read(
    kind: str, keys: dict, memory: int, message: str, tmp_path: Path
):
    request = stage.TableRequest.of(
        table(tmp_path), config_of(kind, **keys), tmp_path / "out", metric="ip", seed=0, memory_bytes=memory
    )
    with pytest.raises(ValueError, match=message):
        stage.run_table(request, silent)
    assert [path.name for path in tmp_path.iterdir()] == ["items.parquet"]


@pytest.mark.parametrize("kind", ["ivf_flat", "ivf_pq"])
def test_a_hit_rate_over_cells_on_disk_holds_no_vectors_of_items(kind: str, tmp_path: Path, monkeypatch):
    items, found = table(tmp_path), list[Items]()
    wanted = [[f"i{row}"] for row in range(len(QUERIES))]
    asked = pa.table({"request_id": np.arange(len(QUERIES)), "gt_items": wanted, "embedding": list(QUERIES)})
    pq.write_table(asked, tmp_path / "requests.parquet")
    for name, memory in (("on_disk", ENOUGH), ("in_memory", None)):
        config = config_of(kind, nprobe=4)
        request = stage.TableRequest.of(items, config, tmp_path / name, metric="ip", seed=0, memory_bytes=memory)
        stage.run_table(request, silent)
    read = own_tables.read_items

    def seen(*arguments, **options):
        found.append(read(*arguments, **options))
        return found[-1]

    monkeypatch.setattr(own_tables, "read_items", seen)
    requests = RequestTable(path=str(tmp_path / "requests.parquet"))
    figures = [
        of_tables.run(
            of_tables.Request(items=items, requests=requests, ks=(10, 50), folder=tmp_path / name), silent
        ).figures
        for name in ("on_disk", "in_memory")
    ]
    assert figures[0] == figures[1]
    assert [isinstance(one.vectors, np.memmap) for one in found] == [True, False]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "in_memory", "items.parquet", "on_disk", "requests.parquet"
    ]  # fmt: skip


def test_the_less_memory_the_more_shards_and_less_is_never_allowed():
    config = config_of("ivf_flat", nlist=1_000)
    plans = {gb: indexes.plan_on_disk(config, 10**8, 64, "ip", 8 * 10**8, int(gb * 1e9)) for gb in (2.5, 4, 64)}
    for gb, plan in plans.items():
        assert plan.memory_bytes <= gb * 1e9
        # Each row of a shard: 64 numbers and its id, and as much again while its list grows.
        assert plan.shard_rows * 2 * (4 * 64 + 8) < gb * 1e9
    assert plans[2.5].shard_rows < plans[4].shard_rows < plans[64].shard_rows == 10**8
    assert plans[4].num_training_rows == 256 * 1_000
