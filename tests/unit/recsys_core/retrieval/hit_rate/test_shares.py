"""Exact lists by processes that share the items: those of one process and of FAISS's flat index, in bounded memory."""

from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys_core.artifacts import ShareOfLists
from recsys_core.indexes import flat
from recsys_core.progress import Event, silent
from recsys_core.retrieval import own_tables
from recsys_core.retrieval.hit_rate import of_tables, shares
from recsys_core.retrieval.own_tables import ItemTable, RequestTable

NUM_ITEMS, NUM_REQUESTS, DIM = 2_500, 60, 8
KS = (5, 30)


@pytest.fixture
def tables(tmp_path: Path) -> dict[str, Any]:
    rng = np.random.default_rng(3)
    items = rng.normal(size=(NUM_ITEMS, DIM)).astype(np.float32)
    ids = [f"i{item}" for item in range(NUM_ITEMS)]
    # Row groups end inside of shares.
    pq.write_table(pa.table({"item_id": ids, "embedding": list(items)}), tmp_path / "items.parquet", row_group_size=700)
    columns = {
        "request_id": np.arange(NUM_REQUESTS),
        "gt_items": [[f"i{item}" for item in rng.choice(NUM_ITEMS + 50, 3, replace=False)] for _ in range(60)],
        "embedding": list(rng.normal(size=(NUM_REQUESTS, 2 * DIM)).astype(np.float32)),
        "interests": 1 + np.arange(NUM_REQUESTS) % 2,
        "seen": [[f"i{item}" for item in rng.choice(NUM_ITEMS, user % 40, replace=False)] for user in range(60)],
    }
    pq.write_table(pa.table(columns), tmp_path / "requests.parquet")
    requests = RequestTable(path=str(tmp_path / "requests.parquet"), seen_column="seen", interests_column="interests")
    return {"items": ItemTable(path=str(tmp_path / "items.parquet")), "requests": requests}


@pytest.fixture
def ranks(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run all ranks of a request, one after the other."""

    def run(request: shares.Request, num_ranks: int, sink: Any = silent) -> shares.Lists:
        for rank in range(num_ranks):
            monkeypatch.setenv("RANK", str(rank))
            monkeypatch.setenv("WORLD_SIZE", str(num_ranks))
            shares.run(request, sink)
        return shares.Lists(request)

    return run


def asked(tables: dict[str, Any], num_ranks: int, output: Path, **others: Any) -> shares.Request:
    given = {"width": max(KS) + 1, "metric": "ip"} | others
    return shares.Request.of(tables["items"], tables["requests"], num_ranks, output, **given)


@pytest.mark.parametrize("metric", ["ip", "l2", "cosine"])
@pytest.mark.parametrize("num_ranks", [1, 2, 4])
def test_figures_and_details_are_those_of_one_process(
    tables: dict[str, Any], ranks: Any, tmp_path: Path, metric: str, num_ranks: int
):
    request = of_tables.Request(ks=KS, metric=metric, details=str(tmp_path / "one"), **tables)
    expected = of_tables.run(request, silent)
    lists = ranks(asked(tables, num_ranks, tmp_path / "lists", metric=metric), num_ranks)
    found = of_tables.run_lists(request.model_copy(update={"details": str(tmp_path / "several")}), lists, silent)
    assert found == expected
    assert pq.read_table(tmp_path / "several").equals(pq.read_table(tmp_path / "one"))
    # Of three tiles of items, four processes get one each, and one gets none.
    names = {path.name for path in (tmp_path / "lists").iterdir()}
    assert names == {f"share-{number:05d}" for number in range(min(num_ranks, 3))}


def test_lists_are_those_of_faiss(tables: dict[str, Any], ranks: Any, tmp_path: Path):
    tables["requests"] = tables["requests"].model_copy(
        update={"seen_column": None, "interests_column": None, "num_interests": 1}
    )
    table = pq.read_table(tables["requests"].path)
    queries = np.stack(table["embedding"].to_numpy())[:, :DIM].copy()
    table = table.set_column(table.schema.get_field_index("embedding"), "embedding", pa.array(list(queries)))
    pq.write_table(table, tables["requests"].path)
    request = of_tables.Request(ks=KS, details=str(tmp_path / "details"), **tables)
    of_tables.run_lists(request, ranks(asked(tables, 3, tmp_path / "lists"), 3), silent)
    index = faiss.IndexFlatIP(DIM)
    index.add(np.stack(pq.read_table(tables["items"].path)["embedding"].to_numpy()))
    scores, rows = index.search(queries, max(KS))
    found = pq.read_table(tmp_path / "details")
    assert found["topk_ids"].to_pylist() == [[f"i{row}" for row in one] for one in rows]
    np.testing.assert_allclose(np.stack(found["topk_dists"].to_numpy()), scores, rtol=1e-5)


def test_vectors_that_do_not_fit_lie_in_a_file(
    tables: dict[str, Any], ranks: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    expected = of_tables.run(of_tables.Request(ks=KS, **tables), silent)
    monkeypatch.setattr(flat, "ITEMS_AT_ONCE", 100)
    small = asked(tables, 1, tmp_path / "lists")
    few = small.model_copy(update={"memory_bytes": 1})
    with pytest.raises(ValueError, match=r"takes a process at least 0\.\d\d GB of memory, and 0\.00 GB are allowed"):
        ranks(few, 1)
    assert not (tmp_path / "lists").exists()
    id_bytes, most_rows = own_tables.shape(tables["items"])[2], own_tables.most_rows(tables["items"])
    whole = shares.plan(small, range(NUM_ITEMS), DIM, id_bytes, most_rows)
    assert not whole.is_mapped
    tight = small.model_copy(update={"memory_bytes": whole.memory_bytes - 1})
    assert shares.plan(tight, range(NUM_ITEMS), DIM, id_bytes, most_rows).is_mapped
    mapped: list[bool] = []
    search = flat.search

    def seen(items_ID: np.ndarray, *others: Any) -> Any:
        mapped.append(isinstance(items_ID, np.memmap))
        return search(items_ID, *others)

    monkeypatch.setattr(flat, "search", seen)
    events: list[Event] = []
    lists = ranks(tight, 1, events.append)
    assert mapped
    assert all(mapped)
    assert of_tables.run_lists(of_tables.Request(ks=KS, **tables), lists, silent).figures == expected.figures
    assert "plan: 1 process(es), each with 2,500 of 2,500 items in a file, at most 0." in events[0].message
    assert [path.name for path in (tmp_path / "lists").iterdir()] == ["share-00000"]


def test_what_a_process_has_done_is_not_done_again(tables: dict[str, Any], ranks: Any, tmp_path: Path):
    request = asked(tables, 2, tmp_path / "lists")
    ranks(request, 2)
    folder = tmp_path / "lists" / "share-00001"
    before = (folder.stat().st_ino, ShareOfLists.load(folder).digest)
    ranks(request, 2)
    assert (folder.stat().st_ino, ShareOfLists.load(folder).digest) == before
    other = request.model_copy(update={"width": 4})
    ranks(other, 2)
    assert ShareOfLists.load(folder).digest != before[1]


def test_what_cannot_be_searched_is_refused_by_its_process(tables: dict[str, Any], ranks: Any, tmp_path: Path):
    table = pq.read_table(tables["items"].path)
    vectors = np.stack(table["embedding"].to_numpy())
    vectors[2_400, 3] = np.nan
    pq.write_table(table.set_column(1, "embedding", pa.array(list(vectors))), tables["items"].path)
    with pytest.raises(ValueError, match=r"'i2400' has a vector with NaN or infinity \(1 of "):
        ranks(asked(tables, 2, tmp_path / "lists"), 2)
    assert [path.name for path in (tmp_path / "lists").iterdir()] == ["share-00000"]
    twice = pa.concat_tables([table, table.slice(5, 1)])
    pq.write_table(twice, tables["items"].path)
    lists = ranks(asked(tables, 2, tmp_path / "others"), 2)
    with pytest.raises(ValueError, match="item_id 'i5' stands there more than once"):
        of_tables.run_lists(of_tables.Request(ks=KS, **tables), lists, silent)
