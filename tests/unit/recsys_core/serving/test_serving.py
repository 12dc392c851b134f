"""A bundle on the disk recommends what its towers and its index say."""

import datetime
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import faiss
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from mlflow.exceptions import MlflowException
from mlflow.pyfunc.model import PythonModelContext

from recsys_core import integrity
from recsys_core.artifacts.release import QUERIES, SETTINGS
from recsys_core.features import Config, Engine
from recsys_core.metrics.retrieval import Lists
from recsys_core.retrieval import publish, vectors
from recsys_core.retrieval.hit_rate import contenders
from recsys_core.serving import Recommender, __main__
from recsys_core.serving.pyfunc import Released
from recsys_core.serving.search import allowed

DAY = datetime.date(2024, 3, 1)


@pytest.fixture(scope="module")
def made(made_day, tmp_path_factory):
    return made_day(tmp_path_factory.mktemp("run"), DAY, 6)


@pytest.fixture
def directory(made, tmp_path):
    queries = publish.queries(made["model"], made["data"], made["embeddings"], 12)
    publish.Bundle(made["model"], made["index"], queries, mask_seen=True).fill(tmp_path / "bundle")
    return tmp_path / "bundle"


def unseal(directory: Path) -> None:
    """Make it a bundle of before there were digests of all its files."""
    (directory / integrity.SEAL).unlink()


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def _vectors(table: pa.Table) -> np.ndarray:
    return np.stack(table["embedding"].to_numpy(zero_copy_only=False))


def test_recommends_the_items_of_the_highest_product(made, directory):
    users = pq.read_table(made["data"].ground_truth)
    queries, items = pq.read_table(made["embeddings"].queries), pq.read_table(made["embeddings"].items)
    found = Recommender.load(directory).recommend(users, 5)
    scores = _vectors(queries) @ _vectors(items).T
    for row, seen in enumerate(users["history__item_id"].to_pylist()):
        best = [item for item in np.argsort(-scores[row]) if items["item_id"][int(item)].as_py() not in (seen or ())][
            :5
        ]
        assert found["item_ids"][row].as_py() == [items["item_id"][int(item)].as_py() for item in best]
        np.testing.assert_allclose(found["scores"][row].as_py(), scores[row][best], rtol=1e-5)


def test_fewer_items_than_wanted_are_not_filled_up(directory, made):
    users = pq.read_table(made["data"].ground_truth).slice(0, 3)
    unseal(directory)
    flat = faiss.IndexFlatIP(8)
    flat.add(_vectors(pq.read_table(made["embeddings"].items)))
    faiss.write_index(flat, str(directory / "index" / "index.faiss"))
    loaded, unmasked = Recommender.load(directory), [60] * 3
    found = loaded.recommend(users, 1_000, mask_seen=False)["item_ids"]
    assert pc.list_value_length(found).to_pylist() == unmasked
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(8), 8, 4, faiss.METRIC_INNER_PRODUCT)
    index.train(np.eye(8, dtype=np.float32)[:4])
    index.add(np.eye(8, dtype=np.float32)[:1])
    faiss.write_index(index, str(directory / "index" / "index.faiss"))
    pq.write_table(pa.table({"item_id": [7]}), directory / "index" / "id_map.parquet")
    lengths = pc.list_value_length(
        Recommender.load(directory).recommend(users, 2, mask_seen=False)["item_ids"]
    ).to_pylist()
    assert lengths == [1, 1, 1], "the one item, though it lies in another cell than the one that is visited"


def test_no_rows_no_answers(directory, made):
    users = pq.read_table(made["data"].ground_truth).slice(0, 0)
    assert Recommender.load(directory).recommend(users, 5).num_rows == 0


def test_k_must_be_positive(directory, made):
    with pytest.raises(ValueError, match="k is 0"):
        Recommender.load(directory).recommend(pq.read_table(made["data"].ground_truth), 0)


def test_threads_share_a_bundle(directory, made):
    loaded, users = Recommender.load(directory), pq.read_table(made["data"].ground_truth)
    expected = loaded.recommend(users, 10)["item_ids"].to_pylist()
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda _: loaded.recommend(users, 10)["item_ids"].to_pylist(), range(24)))
    assert all(answer == expected for answer in answers)


def test_loose_values_become_a_typed_table(directory):
    loaded = Recommender.load(directory)
    table = loaded.table({"segment": [None, "s1"], "age": [30.0, float("nan")], "history__item_id": [[7], None]})
    assert table.to_pydict() == {"segment": [None, "s1"], "age": [30, None], "history__item_id": [[7], None]}
    assert loaded.recommend(table, 3).num_rows == 2
    with pytest.raises(ValueError, match=r"'age' is missing .*found segment"):
        loaded.table({"segment": ["s1"], "history__item_id": [[]]})
    with pytest.raises(ValueError, match="column 'x' is none of the model's, which takes segment, age, history__item"):
        loaded.table({"segment": ["s1"], "age": [30], "history__item_id": [[7]], "x": [1]})
    with pytest.raises(ValueError, match="'age' takes int64"):
        loaded.table({"segment": ["s1"], "age": ["old"], "history__item_id": [[]]})


@pytest.mark.parametrize("piece", ["query/model.pt", "index/index.faiss", "index/id_map.parquet"])
def test_a_missing_piece_is_named(directory, piece):
    (directory / piece).unlink()
    with pytest.raises(ValueError, match=rf"{piece}: missing"):
        Recommender.load(directory)


@pytest.mark.parametrize("piece", ["query/model.pt", "index/index.faiss", "index/id_map.parquet"])
def test_a_damaged_piece_is_named(directory, piece):
    (directory / piece).write_bytes(b"not what it was")
    with pytest.raises(ValueError, match=rf"{piece}: damaged"):
        Recommender.load(directory)


def test_check_passes_what_was_measured(directory):
    report = Recommender.load(directory).check(pq.read_table(directory / QUERIES), 10)
    assert (report.num_queries, report.overlap) == (12, 1.0)


def test_check_finds_another_tower(directory):
    queries = pq.read_table(directory / QUERIES)
    others = pa.FixedSizeListArray.from_arrays(pa.array(-_vectors(queries).ravel()), 8)
    with pytest.raises(ValueError, match="other vectors"):
        Recommender.load(directory).check(queries.set_column(3, "embedding", others), 10)


@pytest.mark.parametrize("piece", ["query/model.pt", "index/index.faiss", "index/id_map.parquet", "queries.parquet"])
def test_a_flipped_bit_is_not_served(directory, piece):
    flip(directory / piece)
    with pytest.raises(ValueError, match=rf"{piece}: damaged, its content is not .*; download the release again"):
        Recommender.load(directory)


def test_an_older_bundle_has_digests_of_its_towers(directory):
    unseal(directory)
    Recommender.load(directory)
    flip(directory / "item" / "model.pt")
    with pytest.raises(ValueError, match=r"item/model.pt: damaged, its content is not what was written"):
        Recommender.load(directory)


@pytest.mark.parametrize("content", [b"", b"null", b"{}", b'{"digests": 1}', b"\x80"])
def test_a_damaged_seal_is_named(directory, content):
    (directory / integrity.SEAL).write_bytes(content)
    with pytest.raises(ValueError, match=r"digests.json: damaged, .*; download the release again"):
        Recommender.load(directory)


def test_a_copy_that_differs_is_not_published(made, tmp_path, monkeypatch):
    queries = publish.queries(made["model"], made["data"], made["embeddings"], 2)
    copy = shutil.copyfile

    def badly(source, target, **how):
        copy(source, target, **how)
        if Path(target).name == "index.faiss":
            flip(Path(target))

    monkeypatch.setattr(shutil, "copyfile", badly)
    with pytest.raises(ValueError, match=r"index/index.faiss: damaged, its content is not what was written"):
        publish.Bundle(made["model"], made["index"], queries, mask_seen=True).fill(tmp_path / "copy")


def test_check_finds_a_damaged_index(directory, made):
    vectors = _vectors(pq.read_table(made["embeddings"].items)).copy()
    vectors[:] = np.nan
    unseal(directory)
    index = faiss.IndexFlatIP(8)
    index.add(vectors)
    faiss.write_index(index, str(directory / "index" / "index.faiss"))
    with pytest.raises(ValueError, match=r"scores that are no numbers|of the recommended items"):
        Recommender.load(directory).check(pq.read_table(directory / QUERIES), 10)


def test_the_command_says_what_it_saw(directory, capsys):
    assert __main__.main([str(directory)]) == 0
    assert "12 queries served" in capsys.readouterr().out
    (directory / "query" / "model.pt").unlink()
    assert __main__.main([str(directory)]) == 1
    assert "query/model.pt: missing" in capsys.readouterr().err
    assert __main__.main([]) == 2
    assert "usage" in capsys.readouterr().err


def test_reading_the_module_loads_neither_torch_nor_faiss():
    script = "import sys, recsys_core.serving; print(sorted({'torch', 'faiss', 'mlflow'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_mlflow_model_answers_and_refuses(directory):
    model = Released()
    model.load_context(PythonModelContext({"features": str(directory / "features")}, {}))
    rows = pd.DataFrame({"segment": ["s1", None], "age": [None, 40], "history__item_id": [[], [7, 17]]})
    assert [len(items) for items in model.predict(rows, {"k": 4})["item_ids"]] == [4, 4]
    assert [len(items) for items in model.predict(rows)["item_ids"]] == [20, 20]
    for wrong, params, expected in [
        (rows.drop(columns="age"), {}, "'age' is missing"),
        (rows, {"k": True}, "k is true or false"),
        (rows, {"top": 3}, "params has no 'top'"),
        (rows.assign(exclude=[[1], ["x"]]), {}, "column 'exclude' takes lists of item ids"),
    ]:
        with pytest.raises(MlflowException, match=expected) as caught:
            model.predict(wrong, params)
        assert caught.value.get_http_status_code() == 400


def _filled(directory: Path, made: dict, items: pa.Table) -> Recommender:
    """The bundle, with fields of its items."""
    folder = directory.parent / "items"
    folder.mkdir()
    # In another order than the index, as a part of an item table may be.
    pq.write_table(items.take(pa.array(np.arange(items.num_rows)[::-1])), folder / "part-00000.parquet")
    queries = publish.queries(made["model"], made["data"], made["embeddings"], 12)
    bundle = publish.Bundle(made["model"], made["index"], queries, mask_seen=True, items=folder)
    shutil.rmtree(directory)
    bundle.fill(directory)
    return Recommender.load(directory)


@pytest.fixture
def filtered(directory, made):
    ids = pq.read_table(made["embeddings"].items)["item_id"]
    number = np.arange(60)
    items = pa.table(
        {
            "item_id": ids,
            "brand": pa.array([None if n % 7 == 0 else f"b{n % 3}" for n in number]),
            "price": pa.array([None if n % 5 == 0 else float(n) for n in number]),
            "size": number % 4,
            "sold": number % 2 == 0,
            "tags": pa.array([["x", "y"][: n % 3] if n else None for n in number], pa.list_(pa.string())),
            "sampling_weight": np.ones(60),
        }
    )
    return _filled(directory, made, items), items.to_pylist()


FILTERS = [
    ({"brand": "b1"}, lambda item: item["brand"] == "b1"),
    ({"brand": ["b1", "b2", "b9"], "size": [0, 3]}, lambda i: i["brand"] in ("b1", "b2") and i["size"] in (0, 3)),
    ({"price": {"min": 10, "max": 40.0}}, lambda item: item["price"] is not None and 10 <= item["price"] <= 40),
    ({"size": {"max": 1}, "sold": True}, lambda item: item["size"] <= 1 and item["sold"]),
    ({"tags": ["y", "z"]}, lambda item: "y" in (item["tags"] or ())),
    ({"price": 12}, lambda item: item["price"] == 12.0),
    ({"brand": []}, lambda item: False),
    ({}, lambda item: True),
]


@pytest.mark.parametrize(("wanted", "passes"), FILTERS)
def test_a_filter_leaves_the_items_that_a_loop_over_them_finds(filtered, wanted, passes):
    loaded, items = filtered
    expected = [passes(item) for item in items]
    assert loaded.fields.allowed(wanted).mask.tolist() == expected
    assert loaded.fields.allowed(wanted).num_items == sum(expected)
    table = loaded.table({"segment": ["s1"], "age": [30], "history__item_id": [[items[1]["item_id"]]]})
    found, _ = loaded.find(table, [60], mask_seen=[True], only=[loaded.fields.allowed(wanted)])
    left = {row for row, good in enumerate(expected) if good} - {1}
    assert {*found.rows.tolist()} == left, "all that are left, though the index is approximate"
    assert "sampling_weight" not in loaded.fields.kinds


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"colour": "red"}, "filter: there is no field 'colour'; there are item_id, brand, price, size, sold, tags"),
        ({"size": "2x"}, "column 'filter.size' takes int64"),
        ({"sold": 1}, "column 'filter.sold' takes bool"),
        ({"price": True}, "column 'filter.price' takes double"),
        ({"brand": {"min": 1}}, "filter.brand is string, and has no min and max"),
        ({"price": {"min": 1, "most": 2}}, "filter.price has 'min', 'most'; give min, max or both"),
        ({"price": {}}, "filter.price has nothing; give min, max or both"),
        ({"price": {"min": "low"}}, "column 'filter.price.min' takes a number"),
    ],
)
def test_a_filter_that_does_not_fit_is_refused(filtered, wanted, message):
    with pytest.raises(ValueError, match=message):
        filtered[0].fields.allowed(wanted)


def test_fields_of_other_items_are_not_served(directory, made):
    unseal(directory)
    pq.write_table(pa.table({"item_id": [1, 2]}), directory / "items.parquet")
    with pytest.raises(ValueError, match="items.parquet: its items are not those of the index; download the release"):
        Recommender.load(directory)


@pytest.mark.parametrize("kind", ["flat", "ivf", "hnsw"])
def test_a_row_gets_the_same_bits_whatever_it_is_asked_with(directory, made, kind):
    unseal(directory)
    items = pq.read_table(made["embeddings"].items)
    faiss.write_index(_make_index(kind, _vectors(items)), str(directory / "index" / "index.faiss"))
    loaded, users = Recommender.load(directory), pq.read_table(made["data"].ground_truth)
    ks = [1 + row % 9 for row in range(users.num_rows)]
    masks = [None, True, False] * 14
    for some in ([3], [3, 4], [*range(17)], [*range(40)]):
        table = users.take(pa.array(some))
        found, _ = loaded.find(table, [ks[row] for row in some], mask_seen=[masks[row] for row in some])
        for place, row in enumerate(some):
            one, _ = loaded.find(users.slice(row, 1), [ks[row]], mask_seen=[masks[row]])
            part = slice(found.offsets[place], found.offsets[place + 1])
            assert found.rows[part].tolist() == one.rows.tolist()
            assert found.scores[part].tobytes() == one.scores.tobytes()


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (list(range(59)), ".*: an index of 60 rows beside an id map of 59; build the index again"),
        (list(range(61)), "id_map.parquet has 61 items and the index 60"),
        ([*range(59), 7], "id_map.parquet: item 7 is there more than once"),
        ([f"i{n}" for n in range(59)] + ["i7"], "id_map.parquet: item 'i7' is there more than once"),
    ],
)
def test_an_id_map_of_another_index_is_refused(directory, ids, message):
    unseal(directory)
    pq.write_table(pa.table({"item_id": ids}), directory / "index" / "id_map.parquet")
    with pytest.raises(ValueError, match=f"index: {message}; download the release again"):
        Recommender.load(directory)


def _make_index(kind: str, vectors: np.ndarray) -> faiss.Index:
    """An index whose search visits little: one cell of eight, or a graph walked with one candidate."""
    if kind == "flat":
        index = faiss.IndexFlatIP(8)
    elif kind == "ivf":
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(8), 8, 8, faiss.METRIC_INNER_PRODUCT)
        index.cp.min_points_per_centroid = 1
        index.train(vectors)
    else:
        index = faiss.IndexHNSWFlat(8, 4, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efSearch = 1
    index.add(vectors)
    return index


@pytest.mark.parametrize("kind", ["flat", "ivf", "hnsw"])
def test_what_was_seen_takes_up_no_places_in_any_index(directory, made, kind):
    items = pq.read_table(made["embeddings"].items)
    unseal(directory)
    faiss.write_index(_make_index(kind, _vectors(items)), str(directory / "index" / "index.faiss"))
    loaded, ids = Recommender.load(directory), items["item_id"].to_pylist()
    # More than half was seen, some of it twice, and two rows leave less than what is asked for.
    seen = [ids[::2], ids[:30] + ids[:30], [], ids[:-3], ids, [*ids[5:], 10**15]]
    columns = {"segment": ["s1"] * 6, "age": [30] * 6, "history__item_id": seen}
    found = loaded.answer(columns, {"k": 10})["item_ids"].to_pylist()
    for row, answer in zip(seen, found, strict=True):
        assert len(answer) == len({*answer}) == min(10, 60 - len({*row} & {*ids}))
        assert not {*answer} & {*row}
    unmasked = loaded.answer(columns, {"k": 60, "mask_seen": False})["item_ids"].to_pylist()
    assert [sorted(answer) for answer in unmasked] == [sorted(ids)] * 6
    # What is excluded for all rows, and what for each, comes on top of it.
    more = columns | {"exclude": [[ids[1]], None, [ids[5]], [], [], []]}
    found = loaded.answer(more, {"k": 60, "exclude": ids[50:]})["item_ids"].to_pylist()
    for row, own, answer in zip(seen, more["exclude"], found, strict=True):
        assert {*answer} == {*ids[:50]} - {*row} - {*(own or ())}


def test_what_was_seen_is_masked_as_where_the_release_was_measured(directory, made, tmp_path):
    ids = pq.read_table(made["embeddings"].items)["item_id"].to_pylist()
    columns = {"segment": ["s1"], "age": [30], "history__item_id": [ids[:20]]}
    queries = publish.queries(made["model"], made["data"], made["embeddings"], 12)
    publish.Bundle(made["model"], made["index"], queries, mask_seen=False).fill(tmp_path / "unmasked")
    masked, unmasked = Recommender.load(directory), Recommender.load(tmp_path / "unmasked")
    for loaded, number in ((masked, 40), (unmasked, 60)):
        assert len(loaded.answer(columns, {"k": 60})["item_ids"][0]) == number
        assert len(loaded.recommend(loaded.table(columns), 60)["item_ids"][0]) == number
        # A request may want the other.
        assert len(loaded.answer(columns, {"k": 60, "mask_seen": True})["item_ids"][0]) == 40
        assert len(loaded.answer(columns, {"k": 60, "mask_seen": False})["item_ids"][0]) == 60
        assert loaded.check(queries, 5).overlap == 1
    with pytest.raises(ValueError, match="mask_seen is null; give true or false"):
        masked.answer(columns, {"mask_seen": None})
    # What says so is sealed; a bundle of before there was a choice lacks it.
    (directory / SETTINGS).unlink()
    with pytest.raises(ValueError, match="serving.json: cannot be read"):
        Recommender.load(directory)
    unseal(directory)
    assert len(Recommender.load(directory).answer(columns, {"k": 60})["item_ids"][0]) == 40
    (directory / SETTINGS).write_text("[]")
    with pytest.raises(ValueError, match="serving.json: damaged"):
        Recommender.load(directory)


def test_the_mask_is_that_of_the_hit_rate(directory, made):
    items, users = pq.read_table(made["embeddings"].items), pq.read_table(made["data"].ground_truth)
    loaded = Recommender.load(directory)
    queries = vectors.Queries(
        users["user_id"].combine_chunks(),
        loaded.embed(users),
        vectors.lists(users["gt_items"].combine_chunks(), items["item_id"].combine_chunks(), "truth"),
        vectors.lists(users["history__item_id"].combine_chunks(), items["item_id"].combine_chunks(), "seen"),
    )
    search = contenders.exact(contenders.Held.of(_vectors(items)), queries.vectors)
    expected = {}
    for rows, ids, _ in vectors.masked_lists(search, queries.seen, items.num_rows, 7):
        expected |= {
            int(row): items["item_id"].take(pa.array(one)).to_pylist() for row, one in zip(rows, ids, strict=True)
        }
    assert any(users["history__item_id"].to_pylist())
    assert loaded.recommend(users, 7)["item_ids"].to_pylist() == [expected[row] for row in range(users.num_rows)]


@pytest.mark.parametrize("metric", ["ip", "l2", "cosine"])
@pytest.mark.parametrize(
    "factory", ["Flat", "IVF4,Flat", "HNSW8,Flat", "SQ8", "IVF4,PQ4x4", "PCA4,IVF2,SQ8", "IVF4,Flat,RFlat", "PQ4x4"]
)
def test_an_index_of_any_kind_is_searched_by_its_metric_and_filtered(directory, made, factory, metric):
    unseal(directory)
    plain = _vectors(pq.read_table(made["embeddings"].items))
    stored = plain / np.linalg.norm(plain, axis=1, keepdims=True) if metric == "cosine" else plain
    index = faiss.index_factory(8, factory, faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT)
    index.train(stored)
    index.add(stored)
    faiss.write_index(index, str(directory / "index" / "index.faiss"))
    (directory / "index" / "index.json").write_text(integrity.sealed({"kind": "flat", "metric": metric}))
    search = Recommender.load(directory).search
    query = np.ascontiguousarray(3 * plain[7:8] + plain[9:10])
    mask = np.arange(60) % 5 < 2
    nothing = Lists(np.empty(0, np.int64), np.array([0, 0]))
    found = search.best(query, [100], nothing, [allowed(mask)])
    assert sorted(found.rows) == np.flatnonzero(mask).tolist()
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)
    if factory in ("Flat", "IVF4,Flat", "HNSW8,Flat"):
        wanted = stored @ (query[0] / np.linalg.norm(query) if metric == "cosine" else query[0])
        if metric == "l2":
            wanted = -((plain - query) ** 2).sum(axis=1)
        np.testing.assert_allclose(found.scores, wanted[found.rows], rtol=1e-4, atol=1e-4)
        assert found.rows[0] == np.flatnonzero(mask)[wanted[mask].argmax()]
    masked = search.best(query, [4], Lists(found.rows[:3], np.array([0, 3])), [allowed(mask)])
    assert masked.rows.tolist() == found.rows[3:7].tolist() or factory not in ("Flat", "SQ8", "PQ4x4")
    assert not {*masked.rows} & {*found.rows[:3]}
    assert len(masked.rows) == 4
    none = search.best(query, [4], nothing, [allowed(np.zeros(60, bool))])
    assert len(none.rows) == 0


def test_items_that_were_removed_are_not_found(directory, made):
    unseal(directory)
    ids = pq.read_table(directory / "index" / "id_map.parquet")["item_id"].to_pylist()
    kept = [None if row % 3 == 0 else item for row, item in enumerate(ids)]
    pq.write_table(pa.table({"item_id": pa.array(kept, pa.int64())}), directory / "index" / "id_map.parquet")
    loaded = Recommender.load(directory)
    assert loaded.search.num_items == 40
    columns = {"segment": ["s1"], "age": [30], "history__item_id": [[]]}
    (found,) = loaded.answer(columns, {"k": 60})["item_ids"].to_pylist()
    assert sorted(found) == sorted(item for item in kept if item is not None)


def test_an_index_of_another_dimension_than_the_towers_is_not_served(directory, made):
    unseal(directory)
    index = faiss.IndexFlatIP(6)
    index.add(np.ones((60, 6), np.float32))
    faiss.write_index(index, str(directory / "index" / "index.faiss"))
    with pytest.raises(ValueError, match="the index has vectors of 6 dimensions, and queries 8"):
        Recommender.load(directory).check_kept(directory)


def test_k_beyond_the_items_takes_no_more_memory_than_they_do(directory, made):
    users = pq.read_table(made["data"].ground_truth).slice(0, 1)
    loaded = Recommender.load(directory)
    for k in (10**9, 10**30):
        assert len(loaded.recommend(users, k, mask_seen=False)["item_ids"][0]) == 60


def test_histories_of_lists_may_have_any_length():
    """Those of an item's tags hold all tags of all its items."""
    item = [{"kind": "id", "name": name, "num_embeddings": 9} for name in ("item_id", "brand", "tags")]
    histories = [
        {"kind": "sequence", "name": f"of_{name}", "column": f"history__{name}", "table": name}
        for name in ("item_id", "brand", "tags")
    ]
    engine = Engine.build(Config.model_validate({"embedding_dim": 4, "query": histories, "item": item}))
    items = pa.table({"item_id": [1, 2], "brand": ["a", None], "tags": [["x", "y"], []]})
    seen = pa.table({"history__item_id": [[1, 2]], "history__brand": [["a", None]], "history__tags": [["x", "y"]]})
    engine.fit([seen], [items])
    assert engine.histories() == ("history__item_id", "history__brand")


def test_a_vector_that_is_no_number_is_refused_with_its_row(directory):
    loaded = Recommender.load(directory)
    loaded._tower = lambda inputs: torch.tensor([[1.0] * 8, [float("nan")] * 8])
    with pytest.raises(ValueError, match="row 1: numbers too large for the model"):
        loaded.answer({"segment": ["s1", "s2"], "age": [1, 2], "history__item_id": [[], []]}, {})
