"""An index whose items change: the same answers as one that is built of what is left, and what is refused."""

from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys_core import indexes, lookup
from recsys_core.artifacts import Index
from recsys_core.progress import silent
from recsys_core.retrieval import index as stage
from recsys_core.retrieval.hit_rate import of_tables
from recsys_core.retrieval.own_tables import ItemTable, RequestTable

DIM = 4


def vectors(num_rows: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(num_rows, DIM)).astype(np.float32)


def table(path: Path, ids: list[str], rows: np.ndarray | None = None) -> ItemTable:
    columns: dict[str, Any] = {"item_id": ids} | ({} if rows is None else {"embedding": list(rows)})
    pq.write_table(pa.table(columns), path)
    return ItemTable(path=str(path))


def base(root: Path, metric: indexes.Metric = "ip", **config: Any) -> Path:
    items = table(root / "base.parquet", [f"i{item}" for item in range(200)], vectors(200, 0))
    kind = lookup.component(indexes.CATALOGUE, config["kind"]).Config.model_validate(config)
    stage.run_table(stage.TableRequest.of(items, kind, root / "base", metric=metric, seed=0), silent)
    return root / "base"


CONFIGS = [
    {"kind": "flat"},
    {"kind": "ivf_flat", "nlist": 5, "nprobe": 5},
    {"kind": "hnsw", "ef_construction": 40, "ef_search": 400},
    {"kind": "fp16"},
    {"kind": "factory", "factory": "RR4,IVF5,Flat", "nprobe": 5},
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config["kind"])
def test_what_is_found_is_what_is_there_now(tmp_path: Path, config: dict):
    folder = base(tmp_path, "cosine", **config)
    # Of 200, the first 60 go, 30 of the others change, 20 come.
    changed = [f"i{item}" for item in [*range(100, 130), *range(200, 220)]]
    new = vectors(50, 1)
    items = table(tmp_path / "new.parquet", changed, new)
    gone = table(tmp_path / "gone.parquet", ["never", *(f"i{item}" for item in range(60))])
    made = stage.update(stage.UpdateRequest.of(folder, items, gone, tmp_path / "updated"), silent)
    assert Index.load(made.path) == made
    assert (made.num_items, made.kind) == (160, config["kind"])
    assert made.reason == "20 items added, 30 changed, 60 removed (1 more not there)"
    there = dict(zip([f"i{item}" for item in range(200)], vectors(200, 0), strict=True))
    there = {name: row for name, row in there.items() if int(name[1:]) >= 60} | dict(zip(changed, new, strict=True))
    loaded = indexes.load(made.path)
    names = loaded.ids.to_pylist()
    queries = vectors(30, 2)
    _, rows = loaded.search(queries, 10, loaded.whole)
    rows_of = np.stack([*there.values()])
    scores = (queries / np.linalg.norm(queries, axis=1)[:, None]) @ (
        rows_of / np.linalg.norm(rows_of, axis=1)[:, None]
    ).T
    expected = [[[*there][item] for item in best[:10]] for best in np.argsort(-scores, axis=1)]
    found = [[names[row] for row in some] for some in rows]
    if config["kind"] == "fp16":
        assert np.mean([len({*a} & {*b}) / 10 for a, b in zip(found, expected, strict=True)]) > 0.98
    else:
        assert found == expected
    # Row i of the id map is FAISS's id i, and of a graph a removed one is null.
    bare = faiss.read_index(str(made.faiss))
    assert bare.ntotal == len(names)
    assert loaded.ids.null_count == (90 if config["kind"] == "hnsw" else 0)


def test_an_updated_index_is_measured_among_items_in_any_order(tmp_path: Path):
    for config in CONFIGS[1:3]:
        folder = base(tmp_path, **config)
        gone = table(tmp_path / "gone.parquet", ["i0", "i7"])
        new = table(tmp_path / "new.parquet", ["new"], vectors(1, 5))
        stage.update(stage.UpdateRequest.of(folder, new, gone, tmp_path / "updated"), silent)
        names = ["new", *(f"i{item}" for item in range(200) if item not in (0, 7))]
        rows = np.concatenate([vectors(1, 5), np.delete(vectors(200, 0), [0, 7], axis=0)])
        items = table(tmp_path / "all.parquet", names, rows)
        truth = [[names[int(best)]] for best in (vectors(25, 3) @ rows.T).argmax(axis=1)]
        asked = pa.table({"request_id": range(25), "gt_items": truth, "embedding": list(vectors(25, 3))})
        pq.write_table(asked, tmp_path / "requests.parquet")
        request = of_tables.Request(
            items=items,
            requests=RequestTable(path=str(tmp_path / "requests.parquet")),
            ks=(1,),
            folder=tmp_path / "updated",
        )
        assert of_tables.run(request, silent).figures.hit_rate == {"1": 1.0}
        with pytest.raises(ValueError, match="an index of other items than"):
            of_tables.run(request.model_copy(update={"folder": folder}), silent)


def test_what_an_index_cannot_take_leaves_it_as_it_was(tmp_path: Path):
    folder = base(tmp_path, kind="flat")
    wide = table(tmp_path / "wide.parquet", ["a"], np.ones((1, 5), np.float32))
    with pytest.raises(ValueError, match="vectors of 5 dimensions where those of .* have 4"):
        stage.update(stage.UpdateRequest.of(folder, wide, None, tmp_path / "updated"), silent)
    numbers = ItemTable(path=str(tmp_path / "numbers.parquet"))
    pq.write_table(pa.table({"item_id": [1], "embedding": [[1.0] * DIM]}), numbers.path)
    with pytest.raises(ValueError, match="ids of type int64 where those to match are string"):
        stage.update(stage.UpdateRequest.of(folder, numbers, None, tmp_path / "updated"), silent)
    everything = table(tmp_path / "all.parquet", [f"i{item}" for item in range(200)])
    with pytest.raises(ValueError, match="no item would be left"):
        stage.update(stage.UpdateRequest.of(folder, None, everything, tmp_path / "updated"), silent)
    assert not (tmp_path / "updated").exists()
    assert indexes.load(folder).num_rows == 200
